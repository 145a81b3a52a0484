"""race: several starts tuned a little on the target's few examples, the worse half dropped, until one is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.delta import Delta
from transfer.ensembling.standings import SCRATCH, Race, Runner
from transfer.errors import ConfigError, DataError, DivergedError
from transfer.tasks import Task
from transfer.training.measuring import measure
from transfer.training.settings import TuneSettings
from transfer.training.tuning import tune
from zoo.errors import ExplainedError

RUNGS = (10, 30)  # steps of the short tunes; after each the worse half drops out
FOLDS = 4  # of the cross-validation when there are too few dev examples
LEAST_DEV = 8  # dev examples below which it is cross-validation
RAN_OUT = "the budget ran out"
CHECKS = 5  # measurements along a tune
MAKING = 0.5  # of the budget: no further candidate is begun after it, so that there is time to tune those there are


@dataclass(frozen=True, eq=False)
class Split:
    """What is tuned on and what is measured on. `task` has the same training examples, for what makes candidates."""

    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    task: Task | None = field(default=None, repr=False)


def splits_of(task: Task, backbone: Backbone, seed: int = 0) -> list[Split]:
    """One split into train and dev, or four folds of both together where dev has fewer than eight examples.

    Folds are balanced over the labels. Candidates are made of each split's training examples alone.

    Raises:
        DataError: fewer than two examples in all.
    """
    from datasets import concatenate_datasets

    if len(task.dev) >= LEAST_DEV:
        return [Split(backbone.encode(task.train, task.fields), backbone.encode(task.dev, task.fields), task)]
    rows = concatenate_datasets([task.train, task.dev]) if len(task.dev) else task.train
    if len(rows) < 2:
        raise DataError(
            f"{len(rows)} example of task {task.name!r} is too few to choose by",
            hint="a larger --examples, or init without --auto",
        )
    encoded = backbone.encode(rows, task.fields)
    order = sorted((int(i) for i in np.random.default_rng(seed).permutation(len(rows))), key=lambda i: encoded[i].label)
    splits = []
    for number in range(min(FOLDS, len(rows))):
        fold = set(order[number::FOLDS])
        rest = [index for index in range(len(rows)) if index not in fold]
        part = replace(task, train=rows.select(rest), dev=rows.select(sorted(fold)))
        splits.append(Split([encoded[i] for i in rest], [encoded[i] for i in sorted(fold)], part))
    return splits


def race(
    backbone: Backbone,
    candidates: Mapping[str, Callable[[Split], Delta]],
    splits: Sequence[Split],
    *,
    budget: float = 120.0,
    rungs: Sequence[int] = RUNGS,
    learning_rate: float | None = None,
    batch_size: int = 16,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Race:
    """Choose a start by successive halving.

    Every candidate is made and measured as it is. Then all are tuned for the first number of steps, the better half
    and scratch go on to the next, each time from the start anew, since the learning rate falls to 0 at the end of a
    tune. A tune counts with its best step, the start among them, as fine-tuning keeps it; so does scratch's.

    Args:
        backbone: Left as it was found.
        candidates: Name -> what makes the start from the training examples of a split; "scratch" must be among them.
            One that cannot be made (an explained error) is left out with the reason.
        splits: As `splits_of` gives them.
        budget: Seconds. No candidate is begun after half of them, and no tune that would go beyond them, as far as
            earlier tunes tell; scratch and the first other that can be made are always measured. One that takes long
            to make is not cut short. With time enough the outcome depends on the seed alone.
        rungs: Steps of the tunes.
        learning_rate: Of all tunes; None is each method's own.
        batch_size, seed: Of all tunes.
    Raises:
        ConfigError: there is no scratch, or a setting is outside its range.
        DivergedError: scratch diverged, so there is nothing to hold the others against.
    Source:
        Successive halving: Jamieson and Talwalkar 2016, arxiv.org/abs/1502.07943.
    """
    if SCRATCH not in candidates:
        raise ConfigError("scratch must be among the candidates", found=", ".join(candidates))
    if not budget > 0:
        raise ConfigError(f"budget must be above 0 seconds, got {budget}")
    begun = clock()

    def left(share: float = 1.0) -> float:
        return budget * share - (clock() - begun)

    runners = {name: Runner(name) for name in candidates}
    others = [name for name in candidates if name != SCRATCH]
    there = False  # one to hold against scratch
    for name in [SCRATCH, *others]:
        if there and left(MAKING) <= 0:
            runners[name].why_not = RAN_OUT
            continue
        with runners[name].timed(clock):
            _make(backbone, runners[name], candidates[name], splits, left if there else None)
        there = there or (name != SCRATCH and runners[name].why_not is None)
    if runners[SCRATCH].why_not is not None:
        raise DivergedError(f"scratch cannot be measured: {runners[SCRATCH].why_not}")
    running = [name for name in (SCRATCH, *others) if runners[name].why_not is None]
    ran_out = any(runner.why_not == RAN_OUT for runner in runners.values())
    last, pace = 0, 0.0  # steps of the last tunes, and seconds a step of the slowest of them

    def by_loss(names: Sequence[str]) -> list[str]:
        return sorted((name for name in names if name != SCRATCH), key=lambda name: (runners[name].loss, name))

    for steps in rungs:
        settings = TuneSettings(
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            eval_every=max(1, steps // CHECKS),
        )
        if left() < 2 * pace * steps:  # scratch and one other, or nothing could be compared
            ran_out = True
            break
        per_tune = pace * steps
        finished: list[str] = []
        # The best so far go first, so that a budget that ends here has tuned those that matter.
        slowest = 0.0
        for name in [SCRATCH, *by_loss(running)]:
            if left() < (slowest or per_tune) or left() <= 0:
                ran_out = True
                break
            before = clock()
            with runners[name].timed(clock):
                _tune(backbone, runners[name], splits, settings)
            if name == SCRATCH and runners[name].why_not is not None:
                raise DivergedError(f"scratch cannot be tuned: {runners[name].why_not}")
            if steps in runners[name].losses:
                finished.append(name)
            slowest = max(slowest, clock() - before)
        pace = slowest / steps
        kept = by_loss(finished)
        if not kept:
            break
        last = steps
        running = [SCRATCH, *kept[: (len(kept) + 1) // 2]]
    level = [name for name in runners if last in runners[name].losses and runners[name].why_not is None]
    chosen = min(level, key=lambda name: (float(runners[name].losses[last].mean()), name != SCRATCH))
    return Race(chosen, runners, last, len(splits) > 1, ran_out)


def _make(
    backbone: Backbone,
    runner: Runner,
    make: Callable[[Split], Delta],
    splits: Sequence[Split],
    left: Callable[[], float] | None,
) -> None:
    """Its deltas, and their losses as they are; without `left` whatever it takes."""
    try:
        for split in splits:
            if left is not None and left() <= 0:
                runner.why_not = RAN_OUT
                return
            runner.deltas.append(make(split))
        runner.losses[0] = _losses(backbone, runner.deltas, splits)
    except ExplainedError as error:
        runner.why_not = str(error).splitlines()[0]


def _tune(backbone: Backbone, runner: Runner, splits: Sequence[Split], settings: TuneSettings) -> None:
    try:
        tuned = []
        for delta, split in zip(runner.deltas, splits, strict=True):
            found = tune(
                backbone,
                delta.method,
                split.train,
                tensors=delta.tensors,
                settings=settings,
                dev=split.held_out,
                description=f"trying {runner.name}",
            )
            tuned.append(Delta(delta.method, found.tensors, delta.settings))
        runner.losses[settings.steps] = _losses(backbone, tuned, splits)
    except DivergedError as error:
        runner.why_not = str(error).splitlines()[0]


def _losses(backbone: Backbone, deltas: Sequence[Delta], splits: Sequence[Split]) -> np.ndarray:
    """Calibrated loss of every held-out example, (n,); DivergedError where one is not finite."""
    found = []
    for delta, split in zip(deltas, splits, strict=True):
        with backbone.use(delta.method, delta.tensors):
            found.append(measure(backbone, split.held_out).calibrated_losses)
    losses = np.concatenate(found)
    if not np.isfinite(losses).all():
        raise DivergedError("a loss is not finite", hint="a smaller learning rate")
    return losses
