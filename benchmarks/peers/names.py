"""Whose start it is, by its name: LIBRARY:WAY, and ours without a library."""

from __future__ import annotations

LIBRARIES = ("peft", "adapterhub", "lorahub", "mergekit")


def library(start: str) -> str:
    """The library that makes a start."""
    found = start.partition(":")[0]
    return found if found in LIBRARIES else "transfer"
