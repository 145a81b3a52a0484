"""Schedules of xi: the values that a SoRA is trained at, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer.errors import ConfigError

KINDS = ("linear", "log-linear", "exp-linear")


@dataclass(frozen=True, kw_only=True)
class XiSchedule:
    """The values of xi, first to last, and how long the model is trained again at each of them.

    Args:
        values: Each at least 0, mostly rising. A first value above 0 gets a 0 in front: training always starts warm,
            with all gates, and that stage is what the others are held against.
        stage_steps: Steps at each value after the first; None takes those of the first, which `TuneSettings` has.
    """

    values: tuple[float, ...]
    stage_steps: int | None = None

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.values)
        if not values or not all(math.isfinite(value) and value >= 0 for value in values):
            raise ConfigError(f"a schedule takes values of xi that are at least 0, got {list(self.values)}")
        object.__setattr__(self, "values", values if values[0] == 0 else (0.0, *values))
        if self.stage_steps is not None and self.stage_steps < 1:
            raise ConfigError(f"stage_steps must be at least 1, got {self.stage_steps}")

    @classmethod
    def named(
        cls, kind: str, last: float, stages: int = 6, first: float | None = None, stage_steps: int | None = None
    ) -> XiSchedule:
        """A schedule by its name.

        Args:
            kind: "linear", "log-linear" or "exp-linear"; see `spaced`.
            last: The largest xi.
            stages: Number of values, at least 2.
            first: The smallest; None is 0, and for "exp-linear", which cannot begin there, a hundredth of `last`.
            stage_steps: As above.
        """
        if first is None:
            first = last / 100 if kind == "exp-linear" else 0.0
        return cls(values=tuple(spaced(kind, first, last, stages)), stage_steps=stage_steps)

    @classmethod
    def parsed(cls, text: str, last: float, stages: int = 6, stage_steps: int | None = None) -> XiSchedule:
        """A schedule from the command line: one of the names, or the values themselves with commas in between.

        >>> XiSchedule.parsed("0,1e-4,5e-4", last=0).values
        (0.0, 0.0001, 0.0005)
        """
        if text in KINDS:
            return cls.named(text, last, stages, stage_steps=stage_steps)
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"no schedule {text!r}", found=f"{', '.join(KINDS)}, or values of xi", hint="--schedule 0,1e-4,5e-4"
            ) from None
        return cls(values=values, stage_steps=stage_steps)


def spaced(kind: str, first: float, last: float, n: int) -> Sequence[float]:
    """`n` values from `first` to `last`.

    linear has equal steps; log-linear is log(linspace(e^first, e^last)), whose steps get smaller; exp-linear is
    exp(linspace(ln first, ln last)), whose steps grow by a factor.

    Raises:
        ConfigError: an unknown kind, fewer than 2 values, or exp-linear from 0.

    >>> [round(value, 4) for value in spaced("exp-linear", 1e-4, 1e-2, 3)]
    [0.0001, 0.001, 0.01]
    """
    if n < 2:
        raise ConfigError(f"a schedule has at least 2 values of xi, got {n}")
    if not 0 <= first <= last < math.inf:
        raise ConfigError(f"xi goes from a value of at least 0 upwards, got {first} to {last}")
    if kind == "linear":
        return [float(value) for value in np.linspace(first, last, n)]
    if kind == "log-linear":
        inner = np.log(np.linspace(np.exp(first), np.exp(last), n))
    elif kind == "exp-linear":
        if first <= 0:
            raise ConfigError("an exp-linear schedule cannot begin at 0, whose logarithm is not finite")
        inner = np.exp(np.linspace(np.log(first), np.log(last), n))
    else:
        raise ConfigError(f"no schedule {kind!r}", found=", ".join(KINDS))
    return [first, *(float(value) for value in inner[1:-1]), last]  # the ends to the last bit
