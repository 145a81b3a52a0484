"""What a task's `task.json` says of it: category, kind, metric, licence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from transfer.errors import DataError
from transfer.tasks.kinds import Kind
from transfer.tasks.labels import refuse_kind
from transfer.tasks.readers.text import read_text

_REFUSED = {
    "regression": "regression",
    "multi_label": "multi-label",
    "multilabel": "multi-label",
    "token_level": "token-level",
    "token_classification": "token-level",
    "sequence_labelling": "token-level",
    "ner": "token-level",
}
_METRICS = ("accuracy", "macro_f1", "exact_match", "token_f1", "rouge_l")


@dataclass(frozen=True)
class Facts:
    """What is known of a task besides its rows; None where nothing is."""

    category: str | None = None
    kind: Kind | None = None
    metric: str | None = None
    license: str | None = None
    provenance: str | None = None  # where the data was first published: the key "source" of a `task.json`
    sizes: Mapping[str, int] | None = None

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """The facts in `folder/task.json`; none when there is no such file.

        Raises:
            DataError: it is not a JSON object, or a value cannot be.
        """
        path = folder / "task.json"
        if not path.is_file():
            return cls()
        try:
            said = json.loads(read_text(path))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {error.lineno}: broken JSON: {error.msg}", hint="mend the file, or take it away"
            ) from error
        if not isinstance(said, dict):
            raise DataError(f"{path} is not a JSON object", hint='such as {"kind": "classification"}')
        return cls.check(said, str(path))

    @classmethod
    def check(cls, said: Mapping[str, Any], where: str) -> Facts:
        """Facts from a mapping such as a `task.json` or an entry of the catalogue.

        Raises:
            DataError: a value cannot be; regression, multi-label and token-level tasks are refused by name.
        """
        for key in ("category", "kind", "metric", "license", "source"):
            if said.get(key) is not None and not isinstance(said[key], str):
                raise DataError(f"{where}: {key!r} is {said[key]!r} where text should be")
        kind = said.get("kind")
        if kind is not None and kind not in get_args(Kind):
            name = re.sub(r"[\s-]+", "_", kind.lower())
            if name in _REFUSED:
                raise refuse_kind(_REFUSED[name], where)
            raise DataError(f"{where}: no kind of task {kind!r}", found=", ".join(get_args(Kind)))
        if said.get("metric") is not None and said["metric"] not in _METRICS:
            raise DataError(f"{where}: no metric {said['metric']!r}", found=", ".join(_METRICS))
        sizes = {split: said.get(f"n_{split}") for split in ("train", "dev", "test")}
        whole = all(isinstance(size, int) for size in sizes.values())
        return cls(
            category=said.get("category"),
            kind=cast("Kind | None", kind),
            metric=said.get("metric"),
            license=said.get("license"),
            provenance=said.get("source"),
            sizes=cast("dict[str, int]", sizes) if whole else None,
        )
