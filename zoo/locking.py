"""One writer at a time in a zoo, over all processes. The system takes the lock back when a process dies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from zoo.errors import ZooError

FILE = ".lock"
WAIT_SECONDS = 60.0
_PAUSE_SECONDS = 0.01


@contextlib.contextmanager
def writing(zoo: Path, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the zoo's lock.

    Raises:
        ZooError: another process held it all the time.
    """
    handle = os.open(zoo / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = time.monotonic() + wait_seconds
        while not _take(handle):
            if time.monotonic() > end:
                raise ZooError(
                    f"another process has been writing to {zoo} for {wait_seconds:.0f} seconds",
                    hint="wait for it, or end it; its lock goes with it",
                )
            time.sleep(_PAUSE_SECONDS)
        yield
    finally:
        os.close(handle)  # and with it the lock


if os.name == "nt":
    import msvcrt

    def _take(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
else:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
