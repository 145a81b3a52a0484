"""How much memory a process takes, as Linux tells it."""

from __future__ import annotations

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


def mark() -> float:
    """MiB that are resident now, with the highest mark begun anew; for `risen`."""
    forget_peak()
    return resident("VmRSS")


def risen(since: float) -> int:
    """How far above a mark the process has been since then, in MiB."""
    return round(max(0.0, resident("VmHWM") - since))
