"""Checkpoints of other libraries as modules of a zoo."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.errors import ConfigError, DeltaError
from transfer.initialization import RECIPE, Initialization
from transfer.paths import without_folders
from transfer.similarity.signatures import module_signature, task_signature
from transfer.similarity.switching import method_of
from transfer.tasks import Task
from zoo import Card, Module
from zoo.formats import detect
from zoo.module import check_content


@dataclass(frozen=True)
class Imported:
    """A module in memory, and lines to tell the user of what was read differently from what stands there."""

    module: Module
    notes: tuple[str, ...] = ()


def import_checkpoint(
    folder: Path,
    backbone: Backbone | None = None,
    task: str | None = None,
    category: str = "unknown",
    license: str = "unknown",
    data: Task | None = None,
    allow_pickle: bool = False,
) -> Imported:
    """Read a folder as a module: one that a zoo exported, or a checkpoint of PEFT, AdapterHub or OpenDelta.

    Args:
        folder: With `card.json`, or with the config and the tensors that another library wrote.
        backbone: The one it was trained on; a plain checkpoint does not say which weights these were.
        task: Source task; by default the name of the folder.
        category: Of the source task.
        license: Of its data.
        data: The source task's data, if it is there: the module then gets the task's part of the signature, and the
            gradient part of its own.
        allow_pickle: Read a pickle where there is no safetensors file: tensors and nothing else.
    Raises:
        ConfigError: a plain checkpoint, and no backbone is given; or one with a card, and what that says is given too;
            or what `Initialization.save` wrote.
        DeltaError: names or shapes do not go with the backbone.
        FormatError: the folder holds a variant that cannot be read.
        ZooError: an exported module is not what its card says, or is of another backbone than the one given.
    """
    if (folder / "card.json").is_file():
        told = (task is not None, category != "unknown", license != "unknown", data is not None)
        names = ("--task", "--category", "--license", "--signature")
        if named := [name for name, given in zip(names, told, strict=True) if given]:
            raise ConfigError(
                f"{folder} has a card of its own, which says that", found=" ".join(named), hint="leave these out"
            )
        found = Module.load(folder)
        if backbone is not None:
            found.check_fits(backbone.fingerprint, backbone.name)
        check_content(found)
        method_of(found)  # settings that cannot be used are refused now, not by whoever reads the zoo later
        return Imported(Module.new(found.card, dict(found.tensors()), found.signature, found.start()))
    if (folder / RECIPE).is_file():
        made = Initialization.load(folder)
        raise ConfigError(
            f"{folder} is no module that was trained on a task",
            found=made.name,
            hint=f"transfer finetune --start {shlex.quote(str(folder))} --target NAME --out FOLDER, and add FOLDER",
        )
    format_ = detect(folder)
    if backbone is None:
        raise ConfigError(
            f"{folder} does not say which weights it was trained on",
            found="a backbone is a folder, a Hub id, or embedded",
            hint=f"transfer zoo add {shlex.quote(str(folder))} --backbone embedded",
        )
    places = [name for name, _ in backbone.model.named_modules() if name]
    nameless = format_.nameless(folder)
    own_places = None if nameless is None else METHODS.get(nameless)().places(backbone.model)
    checkpoint = format_.read(folder, places, own_places, allow_pickle=allow_pickle)
    method = METHODS.get(checkpoint.method).from_settings(checkpoint.settings)
    tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    expected = method.shapes(backbone.model)
    wrong = [name for name, shape in expected.items() if name not in tensors or tuple(tensors[name].shape) != shape]
    if wrong or len(expected) != len(tensors):
        first = wrong[0] if wrong else sorted(set(tensors) - set(expected))[0]
        has = tuple(tensors[first].shape) if first in tensors else "nothing"
        raise DeltaError(
            f"the checkpoint in {folder} does not fit the backbone {backbone.name!r}",
            found=f"{first} is {has}, the backbone asks for {expected.get(first, 'nothing')}",
            hint="name the backbone it was trained on: --backbone",
        )
    encoded = [] if data is None else backbone.encode(data.train, data.fields)
    signature = module_signature(backbone, encoded, method, {n: t.float() for n, t in tensors.items()}, None)
    if data is not None:
        signature = task_signature(backbone, data).merge(signature)
    card = Card(
        task=task or task_name(folder.name),
        category=category,
        method=checkpoint.method,
        settings=method.settings(backbone.model),
        backbone=backbone.said_name,
        fingerprint=backbone.fingerprint,
        license=license,
        max_length=backbone.max_length,
        provenance={
            "kind": backbone.kind,
            "read_from": folder.name,
            "said_backbone": without_folders(checkpoint.backbone) or "nothing",
        },
    )
    dropped = tuple(f"left out {name}: it is no part of the delta" for name in checkpoint.dropped)
    return Imported(Module.new(card, tensors, signature), (*checkpoint.notes, *dropped))


def task_name(folder: str) -> str:
    """A folder's name as a task's: lower case, with nothing in it that a card refuses.

    >>> task_name("My LoRA (SST-2)")
    'my-lora-sst-2'
    """
    name = re.sub(r"[^a-z0-9_.-]+", "-", folder.lower()).strip("-._")
    if not name:
        raise ConfigError(f"no task name can be made of {folder!r}", hint="--task NAME")
    return name
