"""How much memory a process takes, as Linux tells it."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> float:
    """A line of this process's status in MiB: VmRSS now, VmHWM at its highest; 0.0 where there is no such file."""
    if not STATUS.is_file():
        return 0.0
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def forget_peak() -> None:
    """The highest mark begins anew."""
    if CLEAR.exists():
        CLEAR.write_text("5", encoding="utf-8")


def settle() -> None:
    """Give back what was freed: a process keeps it, and what is made next would seem to cost nothing."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
        if trim is not None:
            trim(0)


def mark() -> float:
    """MiB that are resident now, with the highest mark begun anew; for `risen`."""
    settle()
    forget_peak()
    return resident("VmRSS")


def risen(since: float) -> int:
    """How far above a mark the process has been since then, in MiB."""
    return round(max(0.0, resident("VmHWM") - since))
