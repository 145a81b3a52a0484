"""CSV with quotes, and TSV without: the first line names the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from transfer.errors import DataError
from transfer.tasks.readers.text import read_text
from transfer.tasks.table import Table


def read_csv(path: Path) -> Table:
    """Read a `.csv` file: commas, double quotes around values that need them.

    Raises:
        DataError: a row is longer or shorter than the header, two columns share a name, or a quote is never closed.
    """
    return _table(path, list(_csv_rows(path)), mark=",")


def read_tsv(path: Path, header: bool = True) -> Table:
    """Read a `.tsv` file: tabs only. Quotes are text, as in the files of GLUE and CrossFit, where they do not pair up.

    Args:
        header: False for CrossFit's files, whose columns are called `input` and `output`.

    Raises:
        DataError: as `read_csv`.
    """
    lines = read_text(path).split("\n")
    rows = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(lines, start=1) if line.strip("\r")]
    if not header:
        first = rows[0][0] if rows else 1
        rows.insert(0, (first, ["input", "output"]))
    return _table(path, rows, mark="\t")


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line each starts at. strict: a stray quote is an error, not text swallowed to the end of file."""
    text = read_text(path)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a value may be as long as the file
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {start}: broken CSV: {error}",
                hint='close every quote; a quote inside a quoted value is written twice: "she said ""yes"""',
            ) from error
        if row:
            yield start, row
        start = reader.line_num + 1


def _table(path: Path, rows: list[tuple[int, list[str]]], mark: str) -> Table:
    if not rows:
        raise DataError(f"{path} is empty", hint="the first line names the columns")
    (first, header), body = rows[0], rows[1:]
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}, line {first}: {len(twice)} column name{'s' if len(twice) > 1 else ''} used twice: "
            f"{', '.join(repr(name) for name in twice)}",
            found=f"header {', '.join(names)}",
            hint="give every column its own name",
        )
    other = next((sign for sign in (";", "\t", "|", ",") if sign != mark and sign in header[0]), None)
    if len(names) == 1 and other is not None and mark not in header[0]:
        shown = "a tab" if other == "\t" else repr(other)
        raise DataError(
            f"{path}, line {first}: one column named {names[0]!r}; the values seem to be separated by {shown}",
            hint=".csv is separated by commas and .tsv by tabs; save it again, or rename it",
        )
    for number, row in body:
        if len(row) != len(names):
            raise DataError(
                f"{path}, line {number}: {len(row)} values for {len(names)} columns",
                found=f"columns {', '.join(names)}",
                hint="put a value that holds commas or line ends in double quotes"
                if mark == ","
                else "no tabs or line ends inside values",
            )
    return Table(
        where=str(path),
        columns={name: [row[i] for _, row in body] for i, name in enumerate(names)},
        lines=[number for number, _ in body],
    )
