"""Two ways of doing one thing, timed by turns in one process: what slows the machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Paired:
    """Seconds of both, one of each for every round.

    Args:
        ours: (rounds,) seconds.
        theirs: (rounds,) seconds, of the same rounds.
    """

    ours: np.ndarray
    theirs: np.ndarray

    @property
    def ratio(self) -> float:
        """Median of ours over median of theirs; below 1 ours is the quicker."""
        return float(np.median(self.ours) / np.median(self.theirs))

    def interval(self, share: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of the ratio: whole rounds are drawn anew, so both sides of a round stay together."""
        rounds = len(self.ours)
        drawn = np.random.default_rng(seed).integers(rounds, size=(draws, rounds))
        ratios = np.median(self.ours[drawn], axis=1) / np.median(self.theirs[drawn], axis=1)
        low, high = np.quantile(ratios, [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)


def time_by_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int, warm_up: int = 3) -> Paired:
    """Run both `rounds` times; each goes first in every other round."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    both = (ours, theirs)
    for number in range(-warm_up, rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            begun = time.perf_counter()
            both[side]()
            if number >= 0:
                seconds[side].append(time.perf_counter() - begun)
    return Paired(np.array(seconds[0]), np.array(seconds[1]))
