"""JSON lines: one object per line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from transfer.errors import DataError
from transfer.tasks.readers.text import read_text
from transfer.tasks.table import Table

_HALF = re.compile("[\ud800-\udfff]")  # what json leaves of a pair of escapes that lacks one


def read(path: Path) -> Table:
    """Read a `.jsonl` file. Blank lines are passed over; a key that a line lacks is None there.

    A text cut inside a character, as in "\\ud83d", is no text that can be stored: the half becomes U+FFFD, with a note.

    Raises:
        DataError: a line is not one JSON object; names the line.
    """
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    cut: list[int] = []
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped, which only "\n" must end.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = _object(path, number, line)
        text = json.dumps(record, ensure_ascii=False) if "\\ud" in line.lower() else ""
        if _HALF.search(text):
            record = json.loads(_HALF.sub("\ufffd", text))
            cut.append(number)
        records.append(record)
        lines.append(number)
    names: dict[str, None] = {name: None for record in records for name in record}
    notes: tuple[str, ...] = ()
    if cut:
        notes = (f"{path}: {len(cut)} lines with half a character, read as U+FFFD; the first is line {cut[0]}",)
    return Table(
        where=str(path),
        columns={name: [record.get(name) for record in records] for name in names},
        lines=lines,
        notes=notes,
    )


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        what = "nested too deep" if isinstance(error, RecursionError) else str(error)
        if isinstance(error, json.JSONDecodeError):
            what = f"{error.msg} at column {error.colno}"
        if line.strip() in ("[", "{"):
            hint = "one whole object per line; from a JSON list: jq -c '.[]' FILE.json > FILE.jsonl"
        else:
            hint = 'one object per line, such as {"input": "...", "choices": ["no", "yes"], "label": 1}'
        raise DataError(f"{path}, line {number}: broken JSON: {what}", found=_shorten(line), hint=hint) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{path}, line {number}: a {type(record).__name__} where an object should be",
            found=_shorten(line),
            hint='one object per line, such as {"input": "...", "choices": ["no", "yes"], "label": 1}',
        )
    return record


def _shorten(line: str) -> str:
    line = line.strip()
    return line if len(line) <= 80 else line[:77] + "..."
