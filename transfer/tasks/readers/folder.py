"""Which files of a folder are its train, dev and test splits."""

from __future__ import annotations

import os
import re
from pathlib import Path

from transfer.errors import DataError
from transfer.tasks.readers import SUFFIXES, read
from transfer.tasks.readers.delimited import read_tsv
from transfer.tasks.table import Table, joined

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}
# The Hub writes a split as one or more parts: train-00000-of-00002.parquet.
_PART = re.compile(r"(?P<split>[a-z]+)-\d{5}-of-\d{5}$")
_CROSSFIT = re.compile(r"(?P<prefix>.+)_(?P<split>train|dev|test)\.tsv$")


def read_folder(folder: Path) -> dict[str, Table]:
    """Read the splits of a folder: `train.jsonl`, `dev.csv`, ..., or CrossFit's `NAME_train.tsv`.

    Returns:
        split -> table, `train` among them.

    Raises:
        DataError: no train split, two files for one split, or a file that cannot be read.
    """
    files = _split_files(folder)
    if files:
        if "train" not in files:
            raise DataError(
                f"{folder} has no train split",
                found=", ".join(path.name for paths in files.values() for path in paths),
                hint="add train.jsonl, or give the one file, which is then split",
            )
        return {
            split: joined([read(path) for path in files[split]], str(folder / f"{split}-*"))
            for split in SPLITS
            if split in files
        }
    prefixes = _crossfit_prefixes(folder)
    if len(prefixes) == 1:
        return read_crossfit(folder / prefixes[0])
    if prefixes:
        raise DataError(
            f"{folder} holds {len(prefixes)} CrossFit draws",
            found=", ".join(prefixes[:6]) + (", ..." if len(prefixes) > 6 else ""),
            hint=f"choose one: {folder / prefixes[0]}",
        )
    raise DataError(
        f"{folder} has no splits",
        found=_contents(folder),
        hint="files named train, dev and test, ending in .jsonl, .csv, .tsv or .parquet; or give one such file",
    )


def read_crossfit(prefix: Path) -> dict[str, Table]:
    """Read `PREFIX_train.tsv`, `PREFIX_dev.tsv` and `PREFIX_test.tsv`: two columns, no header.

    Raises:
        DataError: there is no `PREFIX_train.tsv`, or a line has not two values.
    """
    paths = {split: prefix.with_name(f"{prefix.name}_{split}.tsv") for split in SPLITS}
    if not paths["train"].is_file():
        raise DataError(f"no file {paths['train']}", hint="CrossFit's files are NAME_train.tsv, _dev.tsv, _test.tsv")
    tables = {}
    for split, path in paths.items():
        if path.is_file():
            tables[split] = read_tsv(path, header=False)
            if not len(tables[split]):
                raise DataError(f"{path} has no rows", hint="a split needs at least one row")
    return tables


def crossfit_prefix(path: Path) -> Path | None:
    """`data/boolq_16_13` for that path itself or for `data/boolq_16_13_train.tsv`, if its train file is there."""
    match = _CROSSFIT.match(path.name)
    prefix = path.with_name(match["prefix"]) if match else path
    # os.path, as wherever a path is a user's word: where a name is too long for a file, Path raises.
    return prefix if os.path.isfile(prefix.with_name(f"{prefix.name}_train.tsv")) else None


def has_splits(folder: Path) -> bool:
    """Whether `folder` looks like a task: it has a train file in a known format."""
    return any(path.stem == "train" and path.suffix in SUFFIXES for path in folder.iterdir()) or bool(
        _crossfit_prefixes(folder)
    )


def _split_files(folder: Path) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        part = _PART.match(path.stem)
        split = SPLIT_NAMES.get(part["split"] if part else path.stem.lower())
        if split is None or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        known = files.setdefault(split, [])
        if known and not (part and _PART.match(known[-1].stem)):
            raise DataError(
                f"{folder} has two {split} splits",
                found=f"{known[-1].name}, {path.name}",
                hint="keep one of them in the folder",
            )
        known.append(path)
    return files


def _crossfit_prefixes(folder: Path) -> list[str]:
    matches = (_CROSSFIT.match(path.name) for path in folder.iterdir())
    return sorted({match["prefix"] for match in matches if match and match["split"] == "train"})


def _contents(folder: Path) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    tasks = [name for name in names if name.endswith("/") and has_splits(folder / name)]
    if tasks:
        return f"folders that hold tasks: {', '.join(tasks[:8])}{', ...' if len(tasks) > 8 else ''}"
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "an empty folder"
