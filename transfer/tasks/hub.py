"""Tasks from the Hugging Face Hub, through `datasets`; from its local cache alone when the Hub is out of reach."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import datasets.config

from transfer.errors import DataError
from transfer.tasks.catalogue import Entry, Part
from transfer.tasks.reach import OutOfReach, endpoint, offline, why_unreachable
from transfer.tasks.table import Table, joined

_ALIASES = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
# Datasets that were scripts have been converted by the Hub, each split to its own folder of parquet files.
_CONVERTED = "refs/convert/parquet"


def load(entry: Entry) -> tuple[dict[str, Table], str, list[str]]:
    """Load a dataset and give its splits our names.

    Returns:
        split -> table ("all" if there is only one split), a line that says where the data is from, and notes.

    Raises:
        OutOfReach: the Hub does not answer and the dataset is not in the local cache, or it cannot be loaded.
        DataError: it has no training split, or a dataset outside the catalogue has other configurations.
    """
    reason = "offline mode is on" if offline() else why_unreachable()
    if reason is not None and not _cached(entry.dataset):
        raise OutOfReach(f"{endpoint()}: {reason}; {entry.dataset} is not in the local cache")
    parts: list[dict[str, Table]] = []
    with _offline_mode(reason is not None):
        for part in entry.parts:
            parts.append(_tables(entry, part, _load_part(entry, part)))
    config = entry.parts[0].config if len(entry.parts) == 1 else None
    line = f"Hub dataset {entry.dataset}" + (f" ({config})" if config else "")
    notes = [f"the Hub is out of reach ({reason}); using the local cache of datasets"] if reason else []
    for split, name in entry.splits.items():
        if _ALIASES[split][0] != name and name not in _ALIASES[split]:
            notes.append(f"{split} is the Hub's {name} split")
    tables = {split: joined([part[split] for part in parts], f"{entry.dataset}:{split}") for split in parts[0]}
    return tables, line, notes


def _load_part(entry: Entry, part: Part) -> Mapping[str, datasets.Dataset]:
    try:
        try:
            loaded = datasets.load_dataset(entry.dataset, part.config)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error) or not entry.splits:
                raise
            folder = part.config or "*"
            files = {name: f"{folder}/{name}/*.parquet" for name in dict.fromkeys(entry.splits.values())}
            loaded = datasets.load_dataset(entry.dataset, revision=_CONVERTED, data_files=files)
    except Exception as error:  # from network, cache and parsers alike; told on with its cause
        configs = re.search(r"[Aa]vailable(?: configs)?: \[(.*)\]", str(error))
        if isinstance(error, ValueError) and configs and not entry.splits:
            names = re.findall(r"'([^']*)'", configs[1])
            had = f"no configuration {part.config!r}" if part.config else f"{len(names)} configurations"
            raise DataError(
                f"{entry.dataset} has {had}",
                found=", ".join(names[:60]) + (", ..." if len(names) > 60 else ""),
                hint=f"say which: --source hub --target {entry.dataset}:{names[0] if names else 'NAME'}",
            ) from error
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise OutOfReach(f"cannot load {entry.dataset}: {reason[:160]}") from error
    return {str(name): split for name, split in loaded.items()}


def _tables(entry: Entry, part: Part, loaded: Mapping[str, datasets.Dataset]) -> dict[str, Table]:
    splits = dict(entry.splits) or _guess_splits(loaded)
    if not splits:
        raise DataError(f"{entry.dataset} has no train split", found=", ".join(loaded))
    missing = [name for name in splits.values() if name not in loaded]
    if missing:
        raise DataError(
            f"{entry.dataset} has no split {missing[0]!r}",
            found=", ".join(loaded),
            hint="download the files and give a path",
        )
    return {split: _table(f"{entry.dataset}:{name}", loaded[name], part.constants) for split, name in splits.items()}


def _guess_splits(loaded: Mapping[str, datasets.Dataset]) -> dict[str, str]:
    found = {split: next((name for name in names if name in loaded), None) for split, names in _ALIASES.items()}
    splits = {split: name for split, name in found.items() if name is not None}
    if "train" in splits:
        return splits
    return {"all": next(iter(loaded))} if len(loaded) == 1 else {}


def _table(where: str, split: datasets.Dataset, constants: Mapping[str, str]) -> Table:
    names = {
        column: list(feature.names)
        for column, feature in split.features.items()
        if isinstance(feature, datasets.ClassLabel) and feature.names
    }
    columns: dict[str, Sequence[Any]] = {}
    for column in split.column_names:
        columns |= _flat(column, split[column][:])
    columns |= {name: [text] * len(split) for name, text in constants.items()}
    return Table(where, columns, range(1, len(split) + 1), unit="row", label_names=names)


def _flat(column: str, values: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """`choices` as `choices.text` and `choices.label`, be it a struct of lists or, as newer data has it, a list of
    structs."""
    first = next((value for value in values if value), None)
    if isinstance(first, Mapping):
        return {f"{column}.{key}": [None if v is None else v.get(key) for v in values] for key in first}
    if isinstance(first, list) and first and isinstance(first[0], Mapping):
        return {f"{column}.{key}": [[part.get(key) for part in v or ()] for v in values] for key in first[0]}
    return {column: values}


def _cached(dataset: str) -> bool:
    """Whether the cache of `datasets` holds anything of this dataset; a local folder is always at hand."""
    if os.path.isdir(dataset):
        return True
    owner, _, name = dataset.rpartition("/")
    stored = datasets.naming.camelcase_to_snakecase(name)
    return os.path.isdir(Path(datasets.config.HF_DATASETS_CACHE) / (f"{owner}___{stored}" if owner else stored))


@contextlib.contextmanager
def _offline_mode(on: bool) -> Iterator[None]:
    """Let `datasets` go straight to its cache: without this it would wait and retry for each file."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or on
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
