"""What a build remembers of each module it trained, passed or not: the build goes on from here after a kill."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from transfer.errors import ConfigError
from zoo.errors import ExplainedError
from zoo.files import sync
from zoo.locking import writing
from zoo.starts import halved

FOLDER = ".build"  # inside the zoo that is being built
NOTE = "shared.json"
FEWEST_DEV = 8  # dev examples by which a module can be told from a baseline


@dataclass(frozen=True, kw_only=True)
class Record:
    """One trained module and how it did. `z` are paired standard errors by which it beats each baseline on dev."""

    task: str
    method: str
    category: str
    license: str
    settings: dict[str, Any]
    fingerprint: str
    metrics: dict[str, dict[str, float]]  # dev, test, untrained_dev, untrained_test, majority_dev, majority_test
    z: dict[str, float]  # untrained, majority; for generation, where no one answer can be guessed, untrained alone
    best_step: int
    steps: int
    learning_rate: float
    batch_size: int
    seed: int
    seconds: float
    sizes: dict[str, int]
    source: str
    metric: str
    kind: str
    data_fingerprint: str
    start: str | None = None  # digest of the tensors that it was trained from; None where the record does not say

    @property
    def clearness(self) -> float:
        """The smaller of the two z."""
        return min(self.z.values())

    def reason(self, criterion: float) -> str | None:
        """Why it is left out, or None when it passes."""
        worst = min(self.z, key=lambda name: self.z[name])
        if self.z[worst] > criterion:
            return None
        baseline = {"untrained": "the untrained backbone", "majority": "the majority label"}[worst]
        found = self.on("dev")
        gain = found["module"] - found[worst]
        few = f"; {self.sizes['dev']} examples are too few to tell" if self.sizes["dev"] < FEWEST_DEV else ""
        return f"not clearly better than {baseline} on dev ({gain:+.3f} {self.judged_by}, z {self.z[worst]:.2f}{few})"

    @property
    def judged_by(self) -> str:
        """The metric that decides: accuracy, or loss where there are no choices to be right about."""
        return "loss" if self.kind == "generation" else "accuracy"

    def on(self, split: str) -> dict[str, float]:
        """That metric of the module and of each baseline on "dev" or "test"."""
        names = {"module": split, **{name: f"{name}_{split}" for name in self.z}}
        return {name: self.metrics[key][self.judged_by] for name, key in names.items()}


@dataclass
class Built:
    """What a build did: the records it has, what it stored, and why the rest is missing."""

    records: list[Record] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # ids in the zoo
    left_out: dict[str, str] = field(default_factory=dict)  # "task method" or "task" -> why
    categories: dict[str, str] = field(default_factory=dict)  # of every task that was asked for, trained or not

    def leave_out(self, name: str, error: Exception) -> str:
        """Remember an error as the reason, in one line; the line to say."""
        said = str(error).strip().replace("\n", "; ")
        if not isinstance(error, ExplainedError):  # of the others the text alone is often no reason: KeyError('x')
            said = f"{type(error).__name__}: {said}" if said else type(error).__name__
        self.left_out[name] = said
        return f"{name}: {said}"


class Records:
    """The records of one build, a file each; written whole or not at all."""

    def __init__(self, zoo: Path) -> None:
        self.folder = zoo / FOLDER

    def check_same_build(
        self, about: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        """Remember what all records of this folder share, or hold it against what is remembered.

        Args:
            about: What modules must share to stand beside each other: backbone, start, ...
            settings: How they were trained.
            defaults: The settings of a folder that remembers none; what is missing here may then be anything.
        Raises:
            ConfigError: something differs.
        """
        note = self.folder / NOTE
        if not note.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**about, "settings": dict(settings)}, sort_keys=True)
            _replace(note, lambda path: path.write_text(text, encoding="utf-8"))
            return
        before = json.loads(note.read_text(encoding="utf-8"))
        other = [name for name in about if before.get(name) != about[name]]
        if other:
            raise ConfigError(
                f"{self.folder.parent} holds a build with another {other[0].replace('_', ' ')}",
                found=f"{before.get(other[0])}, now {about[other[0]]}",
                hint="another --out",
            )
        trained = before.get("settings", defaults)
        changed = [name for name in settings if name in trained and trained[name] != settings[name]]
        if changed:
            raise ConfigError(
                f"{self.folder.parent} holds a build with other settings",
                found=", ".join(f"{name} {trained[name]}, now {settings[name]}" for name in changed),
                hint="another --out",
            )

    def _file(self, task: str, method: str, end: str) -> Path:
        """A plus sign stands in no task and no method, so no two of them share a file."""
        return self.folder / f"{task}+{method}.{end}"

    def get(self, task: str, method: str) -> Record | None:
        """The record, or None when that module was not trained yet."""
        path = self._file(task, method, "json")
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):  # none yet, or one that a crash of the machine cut off
            return None

    def has_tensors(self, task: str, method: str) -> bool:
        """True while what was trained still lies beside its record; once it is in the zoo it may go."""
        return self._file(task, method, "safetensors").is_file()

    def tensors(self, task: str, method: str) -> dict[str, torch.Tensor]:
        """Canonical name -> stored tensor."""
        return load_file(self._file(task, method, "safetensors"))

    def put(self, record: Record, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write tensors first and the record last: what has a record is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        named = record.task, record.method
        _replace(self._file(*named, "safetensors"), lambda path: save_file(dict(tensors), path))
        text = json.dumps(asdict(record), indent=1, sort_keys=True)
        _replace(self._file(*named, "json"), lambda path: path.write_text(text, encoding="utf-8"))

    def start(self, name: str, make: Any) -> dict[str, torch.Tensor]:
        """The start kept under `name`; made by `make()` the first time and read ever after, by all workers alike.

        In fp16 where that holds it exactly.
        """
        path = self.folder / f"+start-{name}.safetensors"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with writing(self.folder):  # two workers may make two, from what the zoo holds at their time
                if not path.is_file():
                    tensors = halved(make())
                    _replace(path, lambda part: save_file(tensors, part))
        return load_file(path)


def _replace(path: Path, write: Any) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    os.close(handle)
    try:
        write(Path(part))
        sync(Path(part))
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
