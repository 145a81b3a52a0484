"""Progress bars for whatever takes more than two seconds; off until the command line turns them on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_bars: ContextVar[Any] = ContextVar("bars", default=None)


@contextlib.contextmanager
def progress_bars() -> Iterator[None]:
    """Show the bars of everything inside the block, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        token = _bars.set(bars)
        try:
            yield
        finally:
            _bars.reset(token)


@contextlib.contextmanager
def track(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for one piece of work; the block calls what it is given with the number of steps done so far."""
    bars = _bars.get()
    if bars is None:
        yield lambda done: None
        return
    bar = bars.add_task(description, total=total)
    try:
        yield lambda done: bars.update(bar, completed=done)
    finally:
        bars.remove_task(bar)
