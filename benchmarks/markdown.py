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
