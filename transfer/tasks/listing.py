"""list_tasks: what there is to load, told without loading anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transfer.tasks import catalogue
from transfer.tasks.facts import Facts
from transfer.tasks.sources import SAMPLES, folder_names, sample_names, tasks_folder


@dataclass(frozen=True)
class TaskRow:
    """One task that `load_task` knows by name.

    `where` lists the sources that have it, in the order they are asked: folder, hub, sample. `sizes` are rows of
    train, dev and test in the first of them, None where they are not known before loading.
    """

    name: str
    category: str
    kind: str
    metric: str
    license: str
    where: tuple[str, ...]
    sizes: Mapping[str, int] | None = None
    hub: str | None = None


def list_tasks() -> list[TaskRow]:
    """Every task known by name, sorted. Reads `task.json` files and the catalogue, never data.

    Raises:
        ConfigError: $TRANSFER_TASKS is set to something that is no folder.
        DataError: a `task.json` cannot be read.
    """
    sources = {"folder": folder_names(), "hub": catalogue.names(), "sample": sample_names()}
    names = sorted({name for known in sources.values() for name in known})
    return [_row(name, [where for where, known in sources.items() if name in known]) for name in names]


def _row(name: str, where: list[str]) -> TaskRow:
    entry = catalogue.find(name) if "hub" in where else None
    facts = [Facts.read(folder) for folder in _folders(name, where)]
    first = facts[0] if facts and where[0] != "hub" else None
    if entry is not None:
        facts.insert(0 if where[0] == "hub" else 1, entry.facts)
    return TaskRow(
        name=name,
        category=next((f.category for f in facts if f.category), "other"),
        kind=next((f.kind for f in facts if f.kind), "classification"),
        metric=next((f.metric for f in facts if f.metric), "accuracy"),
        license=next((f.license for f in facts if f.license), "unknown"),
        where=tuple(where),
        sizes=None if first is None else first.sizes,
        hub=None if entry is None else entry.dataset,
    )


def _folders(name: str, where: list[str]) -> list[Path]:
    root = tasks_folder()
    folders = [root / name] if root is not None and "folder" in where else []
    return folders + ([SAMPLES / name] if "sample" in where else [])
