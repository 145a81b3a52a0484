"""race: several starts tuned a little on the target's few examples, the worse half dropped, until one is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.delta import Delta
from transfer.ensembling.verdict import compare
from transfer.errors import ConfigError, DataError, DivergedError, SourceError, TransferError
from transfer.tasks import Task
from transfer.training.measuring import measure
from transfer.training.settings import TuneSettings
from transfer.training.tuning import tune

SCRATCH = "scratch"
RUNGS = (10, 30)  # steps of the short tunes; after each the worse half drops out
FOLDS = 4  # of the cross-validation when there are too few dev examples
LEAST_DEV = 8  # dev examples below which it is cross-validation
CHECKS = 5  # measurements along a tune


@dataclass(frozen=True, eq=False)
class Split:
    """What is tuned on and what is measured on. `task` has the same training examples, for what makes candidates."""

    train: Sequence[Encoded]
    held_out: Sequence[Encoded]
    task: Task | None = field(default=None, repr=False)


@dataclass
class Runner:
    """One candidate and how it did: losses per held-out example, in the order of the splits."""

    name: str
    deltas: list[Delta] = field(default_factory=list, repr=False)  # one for each split
    losses: dict[int, np.ndarray] = field(
        default_factory=dict
    )  # steps of a tune -> losses at its best step; 0: as it is
    seconds: float = 0.0  # to make it and to tune it
    why_not: str | None = None

    @property
    def steps(self) -> int:
        """Of its longest tune."""
        return max(self.losses, default=0)

    @property
    def loss(self) -> float:
        """Mean after its longest tune."""
        return float(self.losses[self.steps].mean()) if self.losses else float("inf")

    @contextlib.contextmanager
    def timed(self, clock: Callable[[], float]) -> Iterator[None]:
        """Adds what the block takes to its seconds."""
        before = clock()
        yield
        self.seconds += clock() - before


@dataclass(frozen=True)
class Race:
    """What came out.

    Args:
        chosen: The candidate with the lowest mean loss among those that were tuned longest; never one that is worse
            than scratch there.
        runners: All candidates, in the order they were given.
        steps: Of the last tune that `chosen` and scratch both had; 0 when time allowed none.
        cross_validated: Losses are of folds of the training examples, not of dev.
        ran_out: The budget ended the race before its last rung.
    """

    chosen: str
    runners: Mapping[str, Runner] = field(repr=False)
    steps: int
    cross_validated: bool
    ran_out: bool

    def against_scratch(self, name: str) -> dict[str, Any]:
        """Outcome, difference and 90% interval of a candidate's losses less scratch's, after equally many steps.

        Of several candidates the best looks better than it is; the interval does not make up for that.
        """
        scratch, runner = self.runners[SCRATCH], self.runners[name]
        if not runner.losses:
            return {"outcome": "unclear", "difference": None, "interval": None}
        return compare(runner.losses[runner.steps], scratch.losses[runner.steps])

    def runner_up(self) -> str:
        """The best of the candidates that are not scratch, after as many steps as the choice was made by.

        Raises:
            SourceError: none could be measured.
        """
        level = [n for n, runner in self.runners.items() if n != SCRATCH and self.steps in runner.losses]
        if not level:
            reasons = [f"{n}: {runner.why_not}" for n, runner in self.runners.items() if n != SCRATCH]
            raise SourceError("no candidate but scratch could be tried", found="; ".join(reasons) or "no candidates")
        return min(level, key=lambda name: float(self.runners[name].losses[self.steps].mean()))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each candidate, plain JSON: the best first, then those that dropped out, then what was not run."""
        order = sorted(
            self.runners.values(), key=lambda runner: (runner.why_not is not None, -runner.steps, runner.loss)
        )
        return [self._row(runner) for runner in order]

    def _row(self, runner: Runner) -> dict[str, Any]:
        found = self.against_scratch(runner.name) if runner.name != SCRATCH else {}
        interval = found.get("interval")
        return {
            "candidate": runner.name,
            "chosen": runner.name == self.chosen,
            "loss_at_start": round(float(runner.losses[0].mean()), 4) if runner.losses else None,
            "loss_after": round(runner.loss, 4) if runner.steps else None,
            "steps": runner.steps,
            "difference": None if found.get("difference") is None else round(found["difference"], 4),
            "low": None if interval is None else round(interval[0], 4),
            "high": None if interval is None else round(interval[1], 4),
            "seconds": round(runner.seconds, 1),
            "why_not": runner.why_not,
        }


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
        budget: Seconds. Work that would go beyond it is not begun; scratch and one other are always measured. With
            time enough the outcome depends on the seed alone.
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

    def left() -> float:
        return budget - (clock() - begun)

    runners = {name: Runner(name) for name in candidates}
    others = [name for name in candidates if name != SCRATCH]
    for number, name in enumerate([SCRATCH, *others]):
        if number > 1 and left() <= 0:
            runners[name].why_not = "the budget ran out"
            continue
        with runners[name].timed(clock):
            _make(backbone, runners[name], candidates[name], splits)
    if runners[SCRATCH].why_not is not None:
        raise DivergedError(f"scratch cannot be measured: {runners[SCRATCH].why_not}")
    running = [name for name in (SCRATCH, *others) if runners[name].why_not is None]
    ran_out = any(runner.why_not == "the budget ran out" for runner in runners.values())
    last = 0

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
        per_tune = 0.0
        finished: list[str] = []
        # The best so far go first, so that a budget that ends here has tuned those that matter.
        for name in [SCRATCH, *by_loss(running)]:
            if left() < per_tune or left() <= 0:
                ran_out = True
                break
            before = clock()
            with runners[name].timed(clock):
                _tune(backbone, runners[name], splits, settings)
            if name == SCRATCH and runners[name].why_not is not None:
                raise DivergedError(f"scratch cannot be tuned: {runners[name].why_not}")
            if steps in runners[name].losses:
                finished.append(name)
            per_tune = max(per_tune, clock() - before)
        kept = by_loss(finished)
        if not kept:
            break
        last = steps
        running = [SCRATCH, *kept[: (len(kept) + 1) // 2]]
    level = [name for name in runners if last in runners[name].losses and runners[name].why_not is None]
    chosen = min(level, key=lambda name: (float(runners[name].losses[last].mean()), name != SCRATCH))
    return Race(chosen, runners, last, len(splits) > 1, ran_out)


def _make(backbone: Backbone, runner: Runner, make: Callable[[Split], Delta], splits: Sequence[Split]) -> None:
    try:
        runner.deltas = [make(split) for split in splits]
        runner.losses[0] = _losses(backbone, runner.deltas, splits)
    except TransferError as error:
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
