"""Starts that are no strategy but what one is held against: chance, a ranking without the target, and two bounds."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.estimators.matrix import HERE as ESTIMATORS_HERE
from benchmarks.estimators.matrix import KEY as MATRIX_KEY
from benchmarks.estimators.others import Ranking
from benchmarks.estimators.others import target_free as target_free_scores
from benchmarks.estimators.run import gains
from benchmarks.rows import Rows
from benchmarks.strategies.problem import Problem
from transfer.deltas import Delta
from transfer.deltas.method import generator_for
from transfer.ensembling import merge, weigh
from transfer.errors import DataError
from transfer.similarity import Scores
from transfer.similarity.scoring import DEFAULT
from transfer.tasks import load_task
from transfer.training import TuneSettings, tune

ALL_DATA_STEPS = 450


def random_modules(problem: Problem) -> Delta:
    """The default's weights on random modules: each tensor's difference from the start is as long as the real one's."""
    weights = weigh(problem.scores(DEFAULT))
    start = problem.target.start
    found = {name: tensor.clone() for name, tensor in start.items()}
    for module in problem.modules:
        for name, tensor in module.tensors(dtype=torch.float32).items():
            drawn = generator_for(problem.seed, f"{problem.task.name} {module.id} {name}")
            noise = torch.randn(tensor.shape, generator=drawn)
            found[name] += weights[module.id] * noise * ((tensor - start[name]).norm() / noise.norm())
    return problem.delta(found)


def shuffled_weights(problem: Problem) -> Delta:
    """The default's weights, dealt out to the modules anew, otherwise for each target."""
    weights = weigh(problem.scores(DEFAULT))
    drawn = np.random.default_rng([problem.seed, *problem.task.name.encode()])
    values = drawn.permutation(list(weights.values()))
    return merge(problem.modules, dict(zip(weights, map(float, values), strict=True)), "linear")


def target_free(problem: Problem) -> Delta:
    """Softmax weights of what a source gave to the other targets of the transfer matrix, this one left out.

    Raises:
        DataError: the matrix lacks a target for a module.
    """
    ranking = Ranking(problem.target, problem.modules, _gains(problem))
    scores = Scores.from_pairs([module.id for module in problem.modules], list(target_free_scores(ranking)))
    return merge(problem.modules, weigh(scores), "linear")


def oracle(problem: Problem) -> Delta:
    """The module with the best test accuracy as it is: no strategy, since it has seen the answers.

    After tuning another module may be the best.
    """
    table = _gains(problem)
    gained = {m.id: table.get(m.id, {}).get(problem.task.name) for m in problem.modules}
    known = {module_id: gain for module_id, gain in gained.items() if gain is not None}
    if len(known) < len(problem.modules):
        raise DataError(
            f"the transfer matrix has {len(known)} of {len(problem.modules)} modules for {problem.task.name!r}",
            hint="python -m benchmarks.estimators.matrix",
        )
    return merge(problem.modules, {max(known, key=lambda name: (known[name], name)): 1.0}, "linear")


def all_data(problem: Problem) -> Delta:
    """A module trained on all of the target's training examples, its step chosen on all of dev: an upper bound.

    With the method's own learning rate.
    """
    whole = load_task(problem.task.name, source="folder")
    train, dev = (problem.backbone.encode(rows, whole.fields) for rows in (whole.train, whole.dev))
    steps = min(ALL_DATA_STEPS, 3 * problem.tuning.steps)
    settings = TuneSettings(steps=steps, batch_size=problem.tuning.batch_size, eval_every=max(1, steps // 6))
    tuned = tune(
        problem.backbone, problem.target.method, train, tensors=problem.target.start, settings=settings, dev=dev
    )
    return problem.delta(tuned.tensors)


def _gains(problem: Problem) -> dict[str, dict[str, float]]:
    return gains(Rows(ESTIMATORS_HERE / "matrix.jsonl", MATRIX_KEY), problem.target.method.method)
