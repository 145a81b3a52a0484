"""How far a benchmark is, and how long it has to go at the pace so far."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Counts runs. Those that were there before cost nothing and do not count for the pace."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.seen, self.run = total, 0, 0
        self._clock, self._begun = clock, clock()

    def skip(self, n: int = 1) -> None:
        """Runs that need not be made."""
        self.seen += n

    def step(self) -> str:
        """One more run was made: where that leaves us, in words."""
        self.seen += 1
        self.run += 1
        rest = (self._clock() - self._begun) / self.run * (self.total - self.seen)
        return f"{self.seen} of {self.total}, about {_said(rest)} to go"


def _said(seconds: float) -> str:
    """
    >>> _said(75), _said(5400)
    ('1 min', '1.5 h')
    """
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
