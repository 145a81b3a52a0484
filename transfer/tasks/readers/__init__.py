"""Readers: one file per format, each `read(path) -> Table`."""

from __future__ import annotations

import os
from pathlib import Path

from transfer.errors import DataError
from transfer.tasks.table import Table

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")

_REMEDIES = {
    ".json": "one object per line in a .jsonl file; from a JSON list: jq -c '.[]' FILE.json > FILE.jsonl",
    ".xlsx": "save the sheet as CSV (UTF-8)",
    ".xls": "save the sheet as CSV (UTF-8)",
    ".txt": "rename it to .tsv if its columns are separated by tabs and its first line names them",
    ".gz": "unpack it first: gunzip FILE.gz",
    ".zip": "unpack it first: unzip FILE.zip",
    ".arrow": "datasets.Dataset.from_file(FILE).to_parquet('FILE.parquet')",
}


def read(path: Path) -> Table:
    """Read one file by its suffix.

    Raises:
        DataError: not a file, another type of file, or something in it is broken; names the line and what to do.
    """
    from transfer.tasks.readers import delimited, jsonl, parquet

    if not os.path.exists(path):
        raise DataError(f"no file {path}", found=_neighbours(path), hint="check the path")
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint=f"a file that ends in {', '.join(SUFFIXES)}")
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(
            f"cannot read {path}: files of type {kind or 'unknown'} are not task data",
            found=f"known: {', '.join(SUFFIXES)}",
            hint=_REMEDIES.get(kind, "write it as JSON lines or CSV, in UTF-8"),
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", hint="a split needs at least one row")
    readers = {".jsonl": jsonl.read, ".csv": delimited.read_csv, ".tsv": delimited.read_tsv, ".parquet": parquet.read}
    table = readers[kind](path)
    if not len(table):
        raise DataError(f"{path} has no rows", hint="a split needs at least one row")
    return table


def _neighbours(path: Path) -> str | None:
    if not os.path.isdir(path.parent):
        return f"no folder {path.parent} either"
    files = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
    return f"in {path.parent}: {', '.join(files[:8])}" if files else None
