"""Where a task comes from: a path, a folder under $TRANSFER_TASKS, the Hub, or the samples; the first that has it."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from transfer.errors import ConfigError, DataError, UnknownNameError
from transfer.tasks import catalogue, readers
from transfer.tasks.columns import Columns
from transfer.tasks.facts import Facts
from transfer.tasks.kinds import Origin
from transfer.tasks.labels import refuse_kind
from transfer.tasks.reach import OutOfReach
from transfer.tasks.readers.folder import (
    SPLIT_NAMES,
    SPLITS,
    crossfit_prefix,
    has_splits,
    read_crossfit,
    read_folder,
)
from transfer.tasks.table import Table

SAMPLES = Path(__file__).parent / "samples"
SOURCES: tuple[str, ...] = get_args(Origin)


@dataclass(frozen=True)
class Found:
    """A task's data before its columns are read.

    Args:
        tables: split -> table; one table under "all" when a single file has to be split.
        line: Where it came from, for the user.
        guess_answers: CrossFit's outputs may be answers to choose from: look at them.
    """

    name: str
    origin: Origin
    line: str
    tables: Mapping[str, Table]
    columns: Columns
    facts: Facts = field(default_factory=Facts)
    notes: tuple[str, ...] = ()
    guess_answers: bool = False


def is_path(name: str) -> bool:
    """A name is a path only if it has a separator or a suffix; a folder that happens to be called `boolq` is not."""
    return "/" in name or os.sep in name or bool(Path(name).suffix) or name in (".", "..")


def find(name: str, columns: Columns, source: str | None = None) -> Found:
    """Look for a task in the sources, in their order, or in one alone.

    Raises:
        UnknownNameError: no source knows the name; lists the closest names and what was tried.
        DataError: a source has it but it cannot be read, or it is known but out of reach.
        ConfigError: no such source.
    """
    if source is not None and source not in SOURCES:
        raise ConfigError(f"no source {source!r}", found=", ".join(SOURCES), hint="--source sample")
    if not name.strip():
        raise ConfigError("the task's name is empty", hint="transfer tasks ls")
    if source == "path" or (source is None and is_path(name)):
        return from_path(name, columns)
    tried: list[str] = []
    if source in (None, "folder"):
        found = from_folder(name, columns, tried)
        if found:
            return found
    refused = catalogue.refused().get(name)
    if refused and source in (None, "hub"):
        raise refuse_kind(refused, repr(name))
    failure: OutOfReach | None = None
    if source in (None, "hub"):
        try:
            loaded = from_hub(name, columns, tried)
        except OutOfReach as error:
            tried.append(f"the Hub ({error.asked})")
            failure, loaded = error, None
        if loaded:
            return loaded
    if source in (None, "sample"):
        found = from_samples(name, columns, tried)
        if found:
            return found
    if failure is not None:
        known = catalogue.find(name) is not None
        raise DataError(
            f"task {name!r} is known but out of reach" if known else f"the Hub's dataset {name} is out of reach",
            found="tried " + "; ".join(tried),
            hint=f"set TRANSFER_TASKS to a folder that holds {name}/train.jsonl, or give a path"
            if known
            else "download its files and give a path",
        ) from failure
    raise _unknown(name, tried)


def from_path(name: str, columns: Columns) -> Found:
    """A folder with splits, one file, or CrossFit's files.

    Raises:
        DataError: nothing is there, or it cannot be read.
    """
    path = Path(name).expanduser()
    prefix = crossfit_prefix(path)
    if prefix is not None:
        tables = read_crossfit(prefix)
        return Found(_slug(prefix.name), "path", f"{prefix}_*.tsv", tables, columns, guess_answers=True)
    if os.path.isdir(path):
        return _folder(_slug(path.resolve().name), "path", f"folder {path}", path, columns)
    if not os.path.exists(path) and re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name):
        raise DataError(
            f"no file or folder {name}",
            found="a name with a separator is taken for a path",
            hint=f"for the Hub's dataset of that name: --source hub --target {name}",
        )
    tables, notes = _by_split_column(readers.read(path))
    return Found(_slug(path.stem), "path", f"file {path}", tables, columns, notes=notes)


def from_folder(name: str, columns: Columns, tried: list[str]) -> Found | None:
    """The task's folder under $TRANSFER_TASKS."""
    root = tasks_folder()
    if root is None:
        tried.append("$TRANSFER_TASKS (not set)")
        return None
    folder = root / name
    if Path(name).name != name or not os.path.isdir(folder):
        tried.append(f"$TRANSFER_TASKS ({root} has no {name})")
        return None
    return _folder(name, "folder", f"folder {folder} ($TRANSFER_TASKS)", folder, columns)


def from_hub(name: str, columns: Columns, tried: list[str]) -> Found | None:
    """A dataset of the catalogue, or `owner/name` and `owner/name:config` with columns told or guessed."""
    entry = catalogue.find(name)
    if entry is None and "/" in name:
        entry = catalogue.Entry.uncatalogued(name)
    if entry is None:
        tried.append("the Hub (not in the catalogue)")
        return None
    if columns.given:
        entry = replace(entry, columns=replace(columns, lenient=True))
    from transfer.tasks import hub  # brings in `datasets`, which a listing does not need

    tables, line, notes = hub.load(entry)
    return Found(_slug(entry.name), "hub", line, tables, entry.columns, entry.facts, tuple(notes))


def from_samples(name: str, columns: Columns, tried: list[str]) -> Found | None:
    """A small task written for this package; says so, and why nothing better was used."""
    folder = SAMPLES / name
    if Path(name).name != name or not os.path.isdir(folder):
        tried.append("the samples (not among them)")
        return None
    why = f"; tried {'; '.join(tried)}" if tried else ""
    note = f"using the small sample of {name!r} that is shipped with transfer{why}"
    return replace(_folder(name, "sample", "sample shipped with transfer", folder, columns), notes=(note,))


def _folder(name: str, origin: Origin, line: str, folder: Path, columns: Columns) -> Found:
    tables = read_folder(folder)
    crossfit = tables["train"].where.endswith("_train.tsv")
    return Found(name, origin, line, tables, columns, Facts.read(folder), guess_answers=crossfit)


def _by_split_column(table: Table) -> tuple[dict[str, Table], tuple[str, ...]]:
    """Rows by what a `split` column says; one table under "all" if there is none, or if no row of it is for train.

    Raises:
        DataError: it says something else on some rows.
    """
    column = next((name for name in table.columns if name.strip().lower() == "split"), None)
    if column is None:
        return {"all": table}, ()
    values = table.columns[column]
    named = [SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None for value in values]
    if "train" not in named:
        return {"all": table}, (f"the column {column!r} is not followed: it says train on no row",)
    other = sorted({repr(value) for value, split in zip(values, named, strict=True) if split is None})
    if other:
        raise DataError(
            f"{table.where}: the column {column!r} says {', '.join(other[:6])}, which is no split",
            found=f"known: {', '.join(SPLIT_NAMES)}",
            hint="leave these rows out, or give the column another name if it says something else",
        )
    tables = {
        split: table.take([row for row, name in enumerate(named) if name == split])
        for split in SPLITS
        if split in named
    }
    return tables, (f"rows divided by the column {column!r} into {'/'.join(tables)}",)


def tasks_folder() -> Path | None:
    """The folder $TRANSFER_TASKS, or None when it is not set.

    Raises:
        ConfigError: it is set to something that is no folder.
    """
    value = os.environ.get("TRANSFER_TASKS", "").strip()
    if not value:
        return None
    root = Path(value).expanduser()
    if not os.path.isdir(root):
        raise ConfigError(f"TRANSFER_TASKS is {value}, which is no folder", hint="unset TRANSFER_TASKS, or correct it")
    return root


def folder_names() -> list[str]:
    """Names of the tasks under $TRANSFER_TASKS."""
    root = tasks_folder()
    return [] if root is None else sorted(path.name for path in root.iterdir() if path.is_dir() and has_splits(path))


def sample_names() -> list[str]:
    """Names of the samples shipped with the package."""
    return sorted(path.name for path in SAMPLES.iterdir() if path.is_dir()) if SAMPLES.is_dir() else []


def _unknown(name: str, tried: list[str]) -> UnknownNameError:
    known = sorted({*folder_names(), *catalogue.names(), *sample_names()})
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hints = []
    if os.path.exists(name):
        hints.append(f"for the folder of that name: ./{name}")
    elif close:
        hints.append(f"did you mean {' or '.join(close)}?")
    hints.append("transfer tasks ls")
    return UnknownNameError(f"no task named {name!r}", found="tried " + "; ".join(tried), hint="; ".join(hints))


def _slug(name: str) -> str:
    """A task's name from a file's: small letters, digits, `_`, `.` and `-`; accents are dropped.

    Where letters of other scripts are lost, the first digits of the name's sha256 keep two such names apart.
    """
    apart = unicodedata.normalize("NFKD", name.lower())
    plain = "".join(sign for sign in apart if not unicodedata.combining(sign))
    slug = re.sub(r"[^a-z0-9.-]+", "_", plain).lstrip("_.-").rstrip("_")
    if any(sign.isalnum() and not sign.isascii() for sign in plain):
        return f"{slug or 'task'}_{hashlib.sha256(apart.encode()).hexdigest()[:8]}"
    return slug or "task"
