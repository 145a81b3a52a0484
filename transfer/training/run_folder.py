"""The folder of one tune: what run it holds, its last whole checkpoint, and the best delta so far."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerState

from transfer.backbones.encoding import Encoded
from transfer.errors import ConfigError, DivergedError

NOTE = "run.json"
BEST = "best.safetensors"
SNAPSHOTS = "snapshots"
STATE = "trainer_state.json"  # written last of a checkpoint by the Trainer


def check_same_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Leave a note of the run in the folder, or hold the run against the note that is there.

    Raises:
        ConfigError: the folder cannot be made, holds what another program wrote, or belongs to a run with other
            settings, start or data.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be a folder for checkpoints", found=error.strerror, hint="another folder"
        ) from error
    note = folder / NOTE
    mine = json.loads(json.dumps(run, default=str))
    if not note.exists():
        foreign = sorted(path.name for path in [*folder.glob("checkpoint-*"), *folder.glob(BEST)])
        if foreign:  # they would be read as ours, and deleted in time
            raise ConfigError(
                f"{folder} holds checkpoints of another program", found=", ".join(foreign[:4]), hint="another folder"
            )
        part = folder / f".{NOTE}"
        part.write_text(json.dumps(mine, sort_keys=True, indent=1), encoding="utf-8")
        os.replace(part, note)
        return
    try:
        theirs = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        theirs = None
    if theirs != mine:
        other = sorted(name for name in mine if not isinstance(theirs, dict) or theirs.get(name) != mine[name])
        raise ConfigError(
            f"{folder} holds another run",
            found="; ".join(_difference(name, theirs, mine) for name in other) if theirs else None,
            hint=f"--overwrite begins again; or another folder, or delete {folder}",
        )


def _difference(name: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """In what a part of a run's note is another: its settings one by one, the rest by name."""
    before, now = theirs.get(name), mine[name]
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"it differs in {name}"
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return f"it differs in {name}: " + ", ".join(f"{key} was {before.get(key)}, now {now.get(key)}" for key in changed)


def forget(folder: Path) -> None:
    """Delete what a run wrote, and the folder where nothing else lies in it: it may be the caller's own."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    own = [path for path in (folder / SNAPSHOTS).glob("*.safetensors") if path.stem.lstrip(".").isdigit()]
    for path in [*own, folder / NOTE, folder / f".{NOTE}", folder / BEST, folder / f".{BEST}"]:
        path.unlink(missing_ok=True)
    for path in (folder / SNAPSHOTS, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@contextlib.contextmanager
def kept_unless_diverged(folders: Sequence[Path]) -> Iterator[None]:
    """For a run of several tunes: where one diverges, all their folders are forgotten, the last of them first.

    Nothing can go on from there, and the next try has other settings. `folders` may grow inside the block.
    """
    try:
        yield
    except DivergedError:
        for folder in reversed(folders):
            forget(folder)
        raise


def last_checkpoint(folder: Path) -> tuple[Path, TrainerState] | None:
    """The last checkpoint that was written to its end; a kill can leave half of one behind it."""
    found = {
        int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()
    }
    for _, path in sorted(found.items(), reverse=True):
        try:
            return path, TrainerState.load_from_json(str(path / STATE))
        except (OSError, ValueError, TypeError):
            continue
    return None


def checkpoint_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The delta of a checkpoint, by canonical name."""
    return load_file(checkpoint / "model.safetensors")


class Snapshots:
    """Copies of a delta at several steps of a tune; in files when there is a folder for them.

    A run that goes on after a kill finds those that were written before its checkpoint, and writes the later ones again
    with the same values.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: dict[int, dict[str, Tensor]] = {}

    def offer(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep a copy of the delta of this step."""
        if self.folder is None:
            self._kept[step] = copied(tensors)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{step}.safetensors"
        save_file(copied(tensors), part)
        os.replace(part, self.folder / f"{step}.safetensors")

    def read(self) -> dict[int, dict[str, Tensor]]:
        """Step -> tensors, the earliest first."""
        if self.folder is None:
            return dict(sorted(self._kept.items()))
        files = {int(path.stem): path for path in self.folder.glob("*.safetensors") if path.stem.isdigit()}
        return {step: load_file(path) for step, path in sorted(files.items())}


class Best:
    """The delta with the lowest calibrated dev loss so far; in a file as well when there is a folder for it."""

    def __init__(self, folder: Path | None) -> None:
        self.file = None if folder is None else folder / BEST
        self.loss = float("inf")
        self.step = 0
        self.tensors: dict[str, Tensor] = {}

    def read(self) -> None:
        """Go on from what a killed run left."""
        if self.file is None or not self.file.is_file():
            return
        with safe_open(self.file, framework="pt") as stored:
            about = stored.metadata()
        self.tensors, self.loss, self.step = load_file(self.file), float(about["loss"]), int(about["step"])

    def offer(self, step: int, loss: float, tensors: Mapping[str, Tensor]) -> None:
        """Keep a copy when the loss is the lowest so far; one that is not a number never is."""
        if not loss < self.loss:
            return
        self.loss, self.step = loss, step
        self.tensors = copied(tensors)
        if self.file is not None:
            part = self.file.with_name(f".{self.file.name}")
            save_file(self.tensors, part, metadata={"loss": repr(loss), "step": str(step)})
            os.replace(part, self.file)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy in fp32 on the CPU that later training does not change."""
    return {name: value.detach().to("cpu", torch.float32, copy=True).contiguous() for name, value in tensors.items()}


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, shapes and fp32 values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        values = value.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def digest_of_rows(rows: Sequence[Encoded] | None) -> str | None:
    """sha256 of encoded examples, in order."""
    if rows is None:
        return None
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.input, row.choices, row.label)).encode())
    return digest.hexdigest()
