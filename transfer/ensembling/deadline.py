"""Deadline: a time budget that whoever works under it asks between two pieces of work."""

from __future__ import annotations

import time
from collections.abc import Callable

from transfer.errors import ConfigError


class Deadline:
    """Over after `seconds`; never with None. One piece of work that has begun is always ended.

    Args:
        seconds: The budget, above 0.
        clock: Tells the time in seconds.
    Raises:
        ConfigError: the budget is not above 0.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        if seconds is not None and not seconds > 0:
            raise ConfigError(f"a budget must be above 0 seconds, got {seconds}", hint="leave it out for no limit")
        self.seconds = seconds
        self._clock = clock
        self._begun = clock()

    @property
    def spent(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._begun

    @property
    def over(self) -> bool:
        """True when the budget is used up."""
        return self.seconds is not None and self.spent >= self.seconds
