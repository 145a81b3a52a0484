"""What the commands print: lines and tables for people, JSON for machines, errors in three parts."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.deltas.structured import Structure
    from transfer.deltas.tree_text import Look
    from zoo.errors import ExplainedError

WIDTH = 80
GAP = 3  # between two columns of a table
EDGES = 2  # left and right of it
NARROWEST = 8  # that a column is cut to


class Output:
    """Where one command prints. With `json` only the JSON document goes to standard output; `quiet` drops the rest."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet or as_json

    def say(self, text: str = "", style: str | None = None) -> None:
        """A line for people, wrapped to the width of the terminal."""
        if not self.quiet:
            _console().print(_safe(text), style=style, markup=False, highlight=False, soft_wrap=False)

    def aside(self, text: str) -> None:
        """A line for people on standard error, where standard output is what a script reads."""
        if not self.quiet:
            print(_safe(text), file=sys.stderr)

    def path(self, text: str) -> None:
        """A line that holds a path: never wrapped, so that it can be copied."""
        if not self.quiet:
            _console().print(_safe(text), soft_wrap=True)

    def command(self, text: str) -> None:
        """A command to copy, in a line of its own."""
        if not self.quiet:
            print(f"  {text}")

    def result(self, text: str) -> None:
        """A line that is printed also when quiet, unless JSON was asked for: what a script would read."""
        if not self.as_json:
            print(_safe(text))

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        title: str | None = None,
        flexible: str | None = None,
    ) -> None:
        """A table of at most 80 columns; numbers are set right. `flexible` names the column that is cut first."""
        if self.quiet:
            return
        from rich import box
        from rich.table import Table

        rows = [list(row) for row in rows]
        console = _console()
        widths = {
            name: max(len(_cell(text)) for text in (name, *(row[index] for row in rows)))
            for index, name in enumerate(columns)
        }
        taken = EDGES + sum(width + GAP for name, width in widths.items() if name != flexible)
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
        for index, name in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
            table.add_column(
                name,
                justify="right" if numeric else "left",
                overflow="ellipsis" if name == flexible else "fold",
                no_wrap=name == flexible or numeric,
                max_width=max(console.width - taken, NARROWEST) if name == flexible else None,
            )
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        console.print(table)

    def tree(self, seen: Structure, look: Look) -> None:
        """The tree of a model, in colour on a terminal; its lines are as wide as the page, and never wrapped."""
        if self.quiet:
            return
        console = _console()
        plain = not console.encoding.startswith("utf")
        console.print(seen.rich(replace(look, width=min(look.width, console.width), plain=plain)), soft_wrap=True)

    def json(self, document: Any) -> None:
        """The document, when JSON was asked for; numbers that are not finite are null, since JSON has none."""
        if self.as_json:
            plain = not (sys.stdout.encoding or "").lower().startswith("utf")
            print(json.dumps(_finite(document), indent=2, ensure_ascii=plain, allow_nan=False))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Progress bars inside the block, unless quiet or without a terminal to draw them on."""
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        from transfer.progress import progress_bars

        with progress_bars():
            yield


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if console.width > WIDTH or not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=WIDTH)
    return console


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return _safe(str(value))


def _safe(text: str) -> str:
    """Without control characters but tabs and line breaks: a card's text must not steer the terminal.

    >>> _safe("sentiment\x1b[2J")
    'sentiment[2J'
    """
    return "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160))


def _finite(value: Any) -> Any:
    """Plain JSON: numpy's scalars and arrays as numbers and lists, NaN and infinity as None.

    >>> _finite({"loss": float("nan"), "history": ({"step": 1},)})
    {'loss': None, 'history': [{'step': 1}]}
    """
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def show_error(error: ExplainedError) -> None:
    """The three parts of an error, on standard error."""
    print(f"error: {error}", file=sys.stderr)
