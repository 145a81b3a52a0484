"""Task: three splits of examples and what must be known of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import datasets

from transfer.tasks.kinds import Kind, Origin


@dataclass(frozen=True, kw_only=True)
class Task:
    """A target or source task, ready to be trained on.

    `train`, `dev` and `test` have the columns `input` (str), `choices` (list of str) and `label` (int, an index into
    `choices`); a generation task has `input` and `output` (str) instead. With `examples` given, train and dev hold at
    most that many rows; test is always whole.
    """

    name: str
    kind: Kind
    train: datasets.Dataset
    dev: datasets.Dataset
    test: datasets.Dataset
    metric: str = "accuracy"
    category: str = "other"
    source: str = ""  # one line for the user: where the data came from
    origin: Origin = "path"
    license: str = "unknown"
    provenance: str = ""  # where the data was first published, in its own words
    fields: tuple[str, ...] = ()  # `name:` marks that every training row has, in order
    template: str = ""  # how inputs were built from columns, told or guessed; empty where the rows were given
    notes: tuple[str, ...] = ()  # lines to tell the user
    examples: int | None = None  # the N that was asked for; None is all there is
    seed: int = 0

    @property
    def splits(self) -> Mapping[str, datasets.Dataset]:
        """train, dev and test by name, in this order."""
        return {"train": self.train, "dev": self.dev, "test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows per split."""
        return {name: len(split) for name, split in self.splits.items()}

    @cached_property
    def labels(self) -> list[str] | None:
        """The choices when they are the same on every row, else None."""
        return list(self.train[0]["choices"]) if self.kind == "classification" else None

    @cached_property
    def majority(self) -> float:
        """Share of the most frequent label in test, in [0, 1]; 0 for generation, where no one answer can be guessed."""
        if self.kind == "generation":
            return 0.0
        return max(Counter(self.test["label"]).values()) / len(self.test)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over all rows of all splits, in order: 64 hex digits, the same wherever the data came from."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            digest.update(f"{name} {len(split)}\n".encode())
            for row in split:
                digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode())
                digest.update(b"\n")
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = "/".join(str(size) for size in self.sizes.values())
        return f"Task({self.name!r}, {self.kind}, {sizes}, from {self.source})"
