"""Verdict: whether an initialization helps, as a paired comparison of losses on dev says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

CONFIDENCE = 0.90  # of the interval; one bound of it is a one-sided 95%
DRAWS = 2000  # of signs, for intervals of several at once

Outcome = Literal["helps", "hurts", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a short tune from an initialization and one from scratch say of the initialization.

    Args:
        outcome: "helps" or "hurts" when the interval lies on one side of 0, else "unclear". "hurts" also when the
            tune from the initialization diverged.
        difference: Mean over dev examples of the loss after tuning from the initialization, minus that after tuning
            from scratch: below 0 helps. None without dev examples, or when the tune diverged.
        interval: Of the difference, 90%, paired; None with fewer than two dev examples.
        best_of: The candidates that the initialization is the best of on the same examples; the interval is as much
            wider as that takes.
        steps: Of each tune.
        n_dev: Dev examples compared.
        cross_validated: They are all examples, each held out in turn, since dev is too small.
        losses: Mean dev loss after each tune: {"initialization": ..., "scratch": ...}. All losses here are calibrated.
        accuracies: The same for dev accuracy.
        licences: Of the sources that were merged.
        curves: Dev losses along both tunes, where they were measured: name -> rows as `Tuned.history`.
        diverged: The tune from the initialization came to numbers that are not finite: it hurts, without a difference.
        seconds: Both tunes, as far as they were made here, and the comparison.
    """

    outcome: Outcome
    steps: int
    n_dev: int
    difference: float | None = None
    interval: tuple[float, float] | None = None
    best_of: int = 1
    cross_validated: bool = False
    losses: Mapping[str, float] | None = None
    accuracies: Mapping[str, float] | None = None
    licences: tuple[str, ...] = ()
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None
    diverged: bool = False
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """One paragraph for the user."""
        when = f"after {self.steps} steps" if self.steps else "after a tune, which there was no time for; as it is"
        said = f"{_MEANS[self.outcome]} {when}: {self._evidence()}"
        if self.outcome == "hurts":
            said += "; scratch is kept in its place"
        if self.licences and self.outcome != "hurts":
            said += f"; merged from sources under {' | '.join(self.licences)}"  # licences have commas of their own
        return said

    def _evidence(self) -> str:
        if self.diverged:
            return "tuning from it diverged, tuning from scratch did not"
        if self.difference is None or self.losses is None:
            return "no dev examples to compare on"
        ours, theirs = self.losses["initialization"], self.losses["scratch"]
        kind, where = ("held-out", " by cross-validation") if self.cross_validated else ("dev", "")
        told = (
            f"calibrated {kind} loss {ours:.3f} from here, {theirs:.3f} from scratch (difference {self.difference:+.3f}"
        )
        if self.interval is None:
            return f"{told}, one dev example: no interval)"
        low, high = self.interval
        best = f", the best of {self.best_of}" if self.best_of > 1 else ""
        return f"{told}, 90% interval {low:+.3f} to {high:+.3f}{best}, {self.n_dev} {kind} examples{where})"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, the text included."""
        found = asdict(self)
        found["interval"] = None if self.interval is None else list(self.interval)
        found["licences"] = list(self.licences)
        return {**found, "text": self.text}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Verdict:
        """The way back."""
        known = {name: value for name, value in fields.items() if name != "text"}
        interval = known.get("interval")
        known["interval"] = None if interval is None else (interval[0], interval[1])
        known["licences"] = tuple(known.get("licences", ()))
        return cls(**known)


_MEANS = {"helps": "it helps", "hurts": "it hurts", "unclear": "unclear whether it helps"}


def compare(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray, reach: float | None = None
) -> dict[str, Any]:
    """Paired comparison of per-example losses: what a `Verdict` says of outcome, difference and interval.

    Args:
        ours: (n,) losses from the initialization.
        theirs: (n,) losses from scratch, of the same examples in the same order.
        reach: Of the interval to either side, in standard errors; None is that of a t interval.

    >>> compare([0.1, 0.2, 0.1, 0.2], [0.5, 0.7, 0.5, 0.7])["outcome"]
    'helps'
    >>> compare([0.1], [0.5])["outcome"], compare([], [])["outcome"]
    ('unclear', 'unclear')
    """
    from scipy import stats  # type: ignore[import-untyped]

    paired = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if not len(paired):
        return {"outcome": "unclear", "difference": None, "interval": None}
    mean = float(paired.mean())
    if len(paired) == 1:
        return {"outcome": "unclear", "difference": mean, "interval": None}
    error = float(paired.std(ddof=1)) / math.sqrt(len(paired))
    half = (float(stats.t.ppf((1 + CONFIDENCE) / 2, len(paired) - 1)) if reach is None else reach) * error
    low, high = mean - half, mean + half
    outcome = "helps" if high < 0 else "hurts" if low > 0 else "unclear"
    return {"outcome": outcome, "difference": mean, "interval": (low, high)}


def joint_reach(differences: np.ndarray) -> float:
    """Standard errors to either side with which the intervals of several means hold all at once, at 90%.

    The best of many looks better than it is. Differences that go together cost less than independent ones, so the
    reach is that of the largest |t| under random signs of the examples, at most that of Bonferroni.

    Args:
        differences: (n, k) of n >= 2 examples and k candidates.
    Source:
        Westfall and Young 1993, Resampling-Based Multiple Testing (single-step max T).

    >>> one = np.random.default_rng(0).normal(size=(64, 1))
    >>> f"{joint_reach(one):.1f} {joint_reach(np.repeat(one, 8, axis=1)):.1f}"  # eight times the same is one
    '1.7 1.7'
    """
    from scipy import stats

    n, k = differences.shape
    centred = differences - differences.mean(axis=0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(DRAWS, n))
    means = signs @ centred / n
    squares = (centred**2).sum(axis=0)
    errors = np.sqrt(np.maximum(squares - n * means**2, 1e-30) / (n - 1) / n)
    bonferroni = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / k, n - 1)
    return float(min(np.quantile(np.abs(means / errors).max(axis=1), CONFIDENCE), bonferroni))
