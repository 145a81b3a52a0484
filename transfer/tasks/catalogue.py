"""The catalogue of known tasks: where the Hub has them and how their rows are worded. Data, in catalogue.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from transfer.tasks.columns import Columns
from transfer.tasks.facts import Facts

_FILE = Path(__file__).with_name("catalogue.json")
# Longer inputs are cut at the longest field, as in the local task folders, so that both give the same inputs.
_LIMIT = 2000


@dataclass(frozen=True)
class Part:
    """One configuration of a dataset, and columns that say what its rows have in common."""

    config: str | None = None
    constants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A known task.

    Args:
        dataset: Its id on the Hub.
        parts: The configurations it is made of, usually one.
        splits: our split -> the Hub's; a split left out is taken off train.
        columns: How rows become examples.
    """

    name: str
    dataset: str
    parts: tuple[Part, ...]
    splits: Mapping[str, str]
    columns: Columns
    facts: Facts

    @classmethod
    def read(cls, name: str, said: Mapping[str, Any]) -> Entry:
        """An entry of catalogue.json."""
        place = said["hub"]
        parts = place.get("parts") or [{"config": place.get("config")}]
        columns = Columns(
            template=said["template"],
            label=said.get("label"),
            output=said.get("output"),
            choices=tuple(said["choices"]) if "choices" in said else None,
            values=tuple(said["values"]) if "values" in said else None,
            choice_columns=tuple(said.get("choice_columns", ())),
            letters=said.get("letters"),
            rewrite=said.get("rewrite", {}),
            drop=tuple(said.get("drop", ())),
            limit=_LIMIT,
            lenient=True,
        )
        return cls(
            name=name,
            dataset=place["id"],
            parts=tuple(Part(part.get("config"), part.get("constants", {})) for part in parts),
            splits=place["splits"],
            columns=columns,
            facts=Facts.check(said, f"catalogue entry {name}"),
        )

    @classmethod
    def uncatalogued(cls, name: str) -> Entry:
        """A dataset by its id, `owner/name` or `owner/name:config`; splits and columns are left to be found."""
        dataset, _, config = name.partition(":")
        short = dataset.rsplit("/", 1)[-1] + (f"_{config}" if config else "")
        return cls(short, dataset, (Part(config or None),), {}, Columns(lenient=True), Facts())


def names() -> list[str]:
    """Names of all known tasks, sorted."""
    return sorted(_content()["tasks"])


def find(name: str) -> Entry | None:
    """The entry of a task, by its name or an alias."""
    tasks = _content()["tasks"]
    full = _content()["aliases"].get(name, name)
    return Entry.read(full, tasks[full]) if full in tasks else None


def refused() -> Mapping[str, str]:
    """Well-known tasks that are refused: name -> regression, multi-label or token-level."""
    return _content()["refused"]


@cache
def _content() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return content
