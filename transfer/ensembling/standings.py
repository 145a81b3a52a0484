"""Race and Runner: what came of tuning several starts a little."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from transfer.deltas.delta import Delta
from transfer.ensembling.verdict import compare, joint_reach
from transfer.errors import SourceError

SCRATCH = "scratch"


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

        The intervals of all candidates hold at once, so that the best of them may be told by its own.
        """
        runner = self.runners[name]
        if not runner.losses:
            return {"outcome": "unclear", "difference": None, "interval": None}
        return compare(runner.losses[runner.steps], self._scratch(runner), self._reach)

    @property
    def measured(self) -> list[str]:
        """The candidates that were held against scratch."""
        return [name for name, runner in self.runners.items() if name != SCRATCH and runner.losses]

    @cached_property
    def _reach(self) -> float | None:
        ours = [self.runners[name] for name in self.measured]
        apart = [runner.losses[runner.steps] - self._scratch(runner) for runner in ours]
        return joint_reach(np.stack(apart, axis=1)) if len(apart) > 1 and len(apart[0]) > 1 else None

    def _scratch(self, runner: Runner) -> np.ndarray:
        return self.runners[SCRATCH].losses[runner.steps]

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
