"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

NOTHING = "*No rows are checked in yet.*"


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; "nothing yet" without rows."""
    lines = ["| " + " | ".join(str(value) for value in row) + " |" for row in rows]
    if not lines:
        return NOTHING
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])


def without_empty(head: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns in which no row says anything.

    >>> without_empty(["start", "steps"], [["uniform", "-"]])
    (['start'], [['uniform']])
    """
    kept = [number for number in range(len(head)) if any(row[number] != "-" for row in rows)]
    return [head[number] for number in kept], [[row[number] for number in kept] for row in rows]
