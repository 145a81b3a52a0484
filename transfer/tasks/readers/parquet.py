"""Parquet, with the label names that `datasets` keeps in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transfer.errors import DataError
from transfer.tasks.table import Table


def read(path: Path) -> Table:
    """Read a `.parquet` file; columns of structs are flattened to `outer.inner`.

    Raises:
        DataError: the file is not parquet, is cut short, or two columns share a name.
    """
    try:
        # ParquetFile, not read_table: the latter takes a folder named split=train for a partition.
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cannot read {path} as parquet: {reason}", hint="write the file again, or give it its true suffix"
        ) from error
    names = label_names(table.schema)
    table = table.flatten()
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column name used twice: {', '.join(twice)}", hint="give every column its own name")
    return Table(
        where=str(path),
        columns={name: table.column(name).to_pylist() for name in table.column_names},
        lines=range(1, table.num_rows + 1),
        unit="row",
        label_names=names,
    )


def label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """column -> names behind its integers, as `datasets` writes them into parquet files."""
    stored = (schema.metadata or {}).get(b"huggingface")
    if stored is None:
        return {}
    try:
        features = json.loads(stored)["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # someone else's metadata under the same key: the file is read as if it had none
