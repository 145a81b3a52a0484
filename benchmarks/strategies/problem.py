"""Problem: one target, method, number of examples and seed, with all that starts and tunes on it share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from benchmarks.answers import packed
from benchmarks.shared_inputs import related
from benchmarks.targets import TARGETS
from transfer.backbones import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas import Delta
from transfer.ensembling import Pool
from transfer.evaluation import evaluate
from transfer.keeping import Work
from transfer.keeping.work import OtherStart, Trajectory
from transfer.similarity import Scores, Target, find_sources, score
from transfer.tasks import Task, load_task
from transfer.training import TuneSettings
from transfer.training.measuring import measure
from zoo import Module, Zoo
from zoo.tensors import digest

MOST_HELD = {"development": 300, "report": 150}  # rows; those of report targets are for curves alone, over all targets


@dataclass(frozen=True)
class Tuning:
    """How every start is tuned: until dev has not got better for `patience` looks, at most `steps`."""

    steps: int = 150
    check: int = 10
    patience: int | None = 6  # with a look every 10 steps no tune ends before step 60
    batch_size: int = 16

    def __str__(self) -> str:
        return f"{self.steps}/{self.check}/{self.patience}/{self.batch_size}"

    def settings(self, rate: float, seed: int) -> TuneSettings:
        """Of one tune."""
        return TuneSettings(
            steps=self.steps,
            learning_rate=rate,
            batch_size=self.batch_size,
            seed=seed,
            eval_every=self.check,
            patience=self.patience,
        )


@dataclass(frozen=True, kw_only=True)
class SharedWork(Work):
    """A work whose tunes are made once: ways of keeping that begin with the same tune share it, costs included."""

    paths: dict[tuple[object, ...], Trajectory] = field(default_factory=dict, compare=False, repr=False)

    def path(self, train, dev, part, *, start=None, pull=0.0, seed=0):  # type: ignore[no-untyped-def]
        """As `Work.path`; `part` only names the tune."""
        begin = self.start if start is None else start
        rows = tuple(id(row) for row in train), len(dev or ())
        key = digest(dict(begin)), rows, str(self.method), str(self.settings), pull, seed
        if key not in self.paths:
            self.paths[key] = super().path(train, dev, part, start=start, pull=pull, seed=seed)
        return self.paths[key]


@dataclass(frozen=True)
class Made:
    """A start, plain JSON about it, and the seconds it took with the backbone and the modules at hand."""

    delta: Delta = field(repr=False)
    about: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Problem:
    """A target with its draw of examples and the modules that may be its sources.

    Args:
        name, method, seed, examples: Of the target; seed is of the draw of examples and of the order of training.
        backbone: Left as it was found.
        tuning: Of every start.
        measured: What is found on test, by digest of tensors; shared by the seeds of a target, whose test is the same.

    Attributes:
        starts: Those that were made, by name.
    """

    def __init__(
        self,
        name: str,
        method: str,
        seed: int,
        examples: int,
        backbone: Backbone,
        tuning: Tuning | None = None,
        measured: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.task: Task = load_task(name, examples=examples, seed=seed, source="folder")
        self.backbone, self.tuning = backbone, tuning or Tuning()
        self.examples, self.seed = examples, seed
        self.modules: list[Module] = find_sources(Zoo.starter(), backbone, method, exclude=related(name))
        self.target = Target.for_modules(self.task, backbone, self.modules, method, seed)
        self.dev = backbone.encode(self.task.dev, self.task.fields)
        self.measured = {} if measured is None else measured
        self._scores: dict[tuple[str, bool], Scores] = {}
        self._paths: dict[tuple[object, ...], Trajectory] = {}
        self._held: dict[str, dict[str, float]] = {}
        self.starts: dict[str, Made] = {}

    def named(self) -> dict[str, Any]:
        """What a row says of the problem."""
        return {
            "target": self.task.name,
            "method": self.target.method.method,
            "examples": self.examples,
            "seed": self.seed,
            "tuning": str(self.tuning),
        }

    @property
    def scratch(self) -> Delta:
        """The start that all modules share."""
        return self.delta(self.target.start)

    def is_scratch(self, delta: Delta) -> bool:
        """Whether it is that start."""
        return digest(dict(delta.tensors)) == digest(dict(self.target.start))

    def delta(self, tensors: Mapping[str, Tensor]) -> Delta:
        """Tensors of the target's method as a delta."""
        return Delta(self.target.method, dict(tensors), self.target.method.settings(self.backbone.model))

    def scores(self, estimator: str, per_block: bool = False) -> Scores:
        """Of every module, made once."""
        key = estimator, per_block
        if key not in self._scores:
            method = self.target.method.method
            self._scores[key] = score(
                self.target, self.modules, self.backbone, method, estimator, include_own=True, per_block=per_block
            )
        return self._scores[key]

    def pool(self, estimator: str) -> Pool:
        """For weightings that look at examples; they choose on dev."""
        return Pool(self.target, self.modules, self.scores(estimator), dev=self.dev)

    def work(self, start: Delta, rate: float, others: Sequence[OtherStart] = ()) -> SharedWork:
        """Tunes from a start, and from others, at a learning rate."""
        return SharedWork(
            backbone=self.backbone,
            method=start.method,
            start=start.tensors,
            settings=self.tuning.settings(rate, self.seed),
            sources=self.modules,
            origin=self.target.start,
            others=others,
            name=self.task.name,
            paths=self._paths,
        )

    def path(self, start: Delta, rate: float) -> Trajectory:
        """The tune from a start, with the delta at every look at dev."""
        return self.work(start, rate).path(self.target.encoded, self.dev, "tune")

    def test(self, delta: Delta | None) -> dict[str, Any]:
        """Test metrics of a delta, or of the bare backbone, and which rows are right; the same delta is measured once.

        With `held_accuracy` and `held_loss` of `held_out`.
        """
        key = _key(delta)
        if key not in self.measured:
            found = evaluate(self.task, self.backbone, delta)
            self.measured[key] = {**found.metrics, "right": packed(found.per_example)}
        return self.measured[key] | self.held_out(delta)

    def held_out(self, delta: Delta | None) -> dict[str, float]:
        """Accuracy and calibrated loss on dev rows that nothing else sees; empty where the draw left none."""
        key = _key(delta)
        if self.held and key not in self._held:
            with self.backbone.bare() if delta is None else self.backbone.use(delta):
                found = measure(self.backbone, self.held)
            self._held[key] = {"held_accuracy": found.accuracy, "held_loss": found.calibrated_loss}
        return self._held.get(key, {})

    @cached_property
    def held(self) -> list[Encoded]:
        """Rows of the dev split that the draw left over: what a default may be chosen by, and learning curves are of.

        Choices that saw dev look better on it than they are, and test may choose nothing.
        """
        drawn = Counter(zip(self.task.dev["input"], self.task.dev["label"], strict=True))
        rows = []
        for row in load_task(self.task.name, source="folder").dev:
            key = row["input"], row["label"]
            if drawn[key]:
                drawn[key] -= 1
            else:
                rows.append(row)
        kind = "development" if self.task.name in TARGETS["development"] else "report"
        return self.backbone.encode(rows[: MOST_HELD[kind]], self.task.fields)


def _key(delta: Delta | None) -> str:
    return "" if delta is None else f"{delta.method.method} {digest(dict(delta.tensors))}"
