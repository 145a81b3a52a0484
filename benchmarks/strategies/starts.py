"""Starts by name: every way to begin on a target."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.memory import mark, risen
from benchmarks.strategies import controls
from benchmarks.strategies.problem import Made, Problem
from transfer.deltas import Delta
from transfer.ensembling import FitSettings, fit_weights, merge, weigh
from transfer.ensembling.automatic import Maker, choose_start
from transfer.errors import ConfigError, UnknownNameError
from transfer.similarity import ESTIMATORS
from transfer.similarity.scoring import DEFAULT
from transfer.similarity.switching import over_modules
from transfer.training.measuring import measure


@dataclass(frozen=True)
class Recipe:
    """How a start is made.

    Attributes:
        estimator: Whose scores it needs: they are made once, and counted every time.
        own_rate: It is tuned at a learning rate chosen for it; else at that of all merged starts.
    """

    make: Callable[[Problem], Made]
    estimator: str | None = None
    own_rate: bool = False


def start_of(problem: Problem, name: str, more: Mapping[str, Recipe] | None = None) -> Made:
    """A start, made once. An estimator's name stands for the softmax weights of its scores.

    Args:
        problem: Keeps it.
        name: Of one of `STARTS`, of `more`, or of an estimator.
        more: Further starts.
    Raises:
        UnknownNameError: no such start. TransferError: it cannot be made for this problem.
    """
    if name in problem.starts:
        return problem.starts[name]
    recipes = {**STARTS, **(more or {})}
    if name in recipes:
        recipe = recipes[name]
    elif name in ESTIMATORS.names():
        recipe = Recipe(lambda problem: _weighed(problem, name), name)
    else:
        raise UnknownNameError(f"no start named {name!r}", found=", ".join([*recipes, *ESTIMATORS.names()]))
    scored = 0.0 if recipe.estimator is None else problem.scores(recipe.estimator).seconds
    before = mark()
    begun = time.perf_counter()
    made = recipe.make(problem)
    seconds = made.seconds or time.perf_counter() - begun  # what was made in another process says what it took there
    about = {"start_mib": risen(before), **made.about}
    problem.starts[name] = replace(made, about=about, seconds=round(scored + seconds, 2))
    return problem.starts[name]


def _weighed(problem: Problem, estimator: str, rule: str = "linear", **how: Any) -> Made:
    """Scores to weights to one delta; scores and weights go into the row."""
    scores = problem.scores(estimator)
    weights = weigh(scores, **how)
    shown = {name: float(f"{value:.6g}") for name, value in zip(scores.ids, scores.values, strict=True)}
    return Made(merge(problem.modules, weights, rule), {"scores": shown, "weights": _rounded(weights)})


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {module_id: round(weight, 4) for module_id, weight in weights.items()}


def _plain_average(problem: Problem, ids: list[str]) -> Delta:
    return merge(problem.modules, {module_id: 1 / len(ids) for module_id in ids}, "linear")


def _uniform(problem: Problem) -> Made:
    return Made(_plain_average(problem, [module.id for module in problem.modules]))


def _category(problem: Problem) -> Made:
    """Division by hand: the plain average of the modules of the target's category."""
    ours = [module.id for module in problem.modules if module.card.category == problem.task.category]
    if not ours:
        there = sorted({str(module.card.category) for module in problem.modules})
        raise ConfigError(f"no module has the category {problem.task.category!r}", found=", ".join(there))
    return Made(_plain_average(problem, ours), {"modules": len(ours)})


def _best_single(problem: Problem) -> Made:
    """The module with the lowest loss on dev."""
    losses = over_modules(
        problem.backbone, problem.modules, lambda *_: measure(problem.backbone, problem.dev).calibrated_loss
    )
    best = problem.modules[int(np.argmin(losses))]
    return Made(merge(problem.modules, {best.id: 1.0}, "linear"), {"module": best.id})


def _per_block(problem: Problem) -> Made:
    weights = weigh(problem.scores(DEFAULT, per_block=True), per_block=True)
    return Made(merge(problem.modules, weights, "linear"))


def _fitted(how: str, **changes: Any) -> Recipe:
    def make(problem: Problem) -> Made:
        settings = FitSettings(seed=problem.seed, batch_size=problem.tuning.batch_size, **changes)
        found = fit_weights(problem.pool(DEFAULT), how, settings)
        return Made(problem.delta(found.tensors), {"weights": _rounded(found.weights)})

    return Recipe(make, DEFAULT)


def _auto(problem: Problem) -> Made:
    """Without an end to its budget, so that the seed alone decides the race; what it took is in the row."""
    method = problem.target.method.method
    maker = Maker(problem.modules, problem.backbone, method, seed=problem.seed, budget=math.inf)
    found = choose_start(problem.task, maker, budget=math.inf, seed=problem.seed)
    delta = problem.scratch if found.scratch else found.made.delta
    about = {"chosen": found.race.chosen, "race": found.race.rows(), "cross_validated": found.race.cross_validated}
    return Made(delta, about)


def _control(make: Callable[[Problem], Delta], estimator: str | None = DEFAULT) -> Recipe:
    return Recipe(lambda problem: Made(make(problem)), estimator)


STARTS: dict[str, Recipe] = {
    "scratch": Recipe(lambda problem: Made(problem.scratch)),
    "uniform": Recipe(_uniform),
    "category": Recipe(_category),
    "best-single": Recipe(_best_single),
    **{f"top-{k}": Recipe(partial(_weighed, estimator=DEFAULT, top_k=k), DEFAULT) for k in (3, 5, 10)},
    **{
        f"temperature-{value:g}": Recipe(partial(_weighed, estimator=DEFAULT, temperature=value), DEFAULT)
        for value in (0.1, 0.25, 1.0)
    },
    "per-block": Recipe(_per_block),
    **{rule: Recipe(partial(_weighed, estimator=DEFAULT, rule=rule), DEFAULT) for rule in ("svd", "ties")},
    "learned": _fitted("learned"),
    "learned:per-block": _fitted("learned", per_block=True),
    "greedy": _fitted("greedy"),
    "cluster": _fitted("cluster"),
    "search": _fitted("search"),
    "auto": Recipe(_auto),
    "random-modules": _control(controls.random_modules),
    "shuffled-weights": _control(controls.shuffled_weights),
    "target-free": _control(controls.target_free, None),
    "oracle": _control(controls.oracle, None),
    "all-data": _control(controls.all_data, None),
}
