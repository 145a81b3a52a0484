"""How much better than scratch: paired over targets and seeds, with a bootstrap interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
TIE = 0.005  # of accuracy: means over seeds that differ by less are a tie

Pairs = Mapping[str, Sequence[tuple[float, float]]]  # target -> (ours, base) of each seed


@dataclass(frozen=True)
class Gain:
    """Means over targets of the means over seeds; `relative` is (mean - base) / base.

    `low` and `high` hold 95% of the relative gains of resampled targets and, within each, seeds; of one run there is
    none: NaN.
    """

    mean: float
    base: float
    relative: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int

    @property
    def targets(self) -> int:
        """How many there are."""
        return self.wins + self.ties + self.losses

    def shown(self) -> str:
        """Percent, with the interval where there is one."""
        shown = f"{100 * self.relative:+.1f}%"
        return shown if math.isnan(self.low) else f"{shown} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def gain_of(pairs: Pairs, draws: int = DRAWS, seed: int = 0) -> Gain:
    """The gain of runs over those they are paired with.

    Raises:
        ValueError: there are no pairs.
    """
    if not pairs:
        raise ValueError("no runs to compare")
    tables = [np.asarray(values, dtype=float) for values in pairs.values()]
    means = np.array([table.mean(axis=0) for table in tables])  # (targets, 2)
    differences = means[:, 0] - means[:, 1]
    ours, base = means.mean(axis=0)
    generator = np.random.default_rng(seed)
    # (targets, draws, places, 2): what each target would give at each place of a draw, its seeds resampled.
    size = (draws, len(tables))
    seeds = np.stack([table[generator.integers(len(table), size=(*size, len(table)))].mean(axis=2) for table in tables])
    chosen = generator.integers(len(tables), size=size)
    drawn = seeds[chosen, np.arange(draws)[:, None], np.arange(len(tables))].mean(axis=1)  # (draws, 2)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1] - 1, [0.025, 0.975])
    if sum(map(len, tables)) == 1:
        low = high = np.nan
    return Gain(
        mean=float(ours),
        base=float(base),
        relative=float(ours / base - 1),
        low=float(low),
        high=float(high),
        wins=int((differences > TIE).sum()),
        ties=int((np.abs(differences) <= TIE).sum()),
        losses=int((differences < -TIE).sum()),
    )
