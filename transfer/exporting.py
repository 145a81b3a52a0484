"""Modules for others: folded into the backbone as a plain Hugging Face model, or as a checkpoint of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.backbones.loading import without_chatter
from transfer.deltas.delta import Delta
from transfer.deltas.folding import merged_values
from transfer.errors import DeltaError
from zoo import Module
from zoo.folders import check_replaceable, whole_folder
from zoo.formats import get_format

CARD = "README.md"


def export_merged(module: Module, folder: Path | str, backbone: Backbone, force: bool = False) -> Path:
    """Write the backbone with the module merged into its weights; `AutoModel.from_pretrained(folder)` loads it.

    Its outputs are those of the backbone with the module on it. The tokenizer is written along.

    Args:
        module: Of a method that is a change of parameters, such as LoRA.
        folder: Must not be there, or be empty.
        backbone: The one it was trained on; left as it was found.
        force: Take another one all the same.
    Raises:
        FingerprintError: the backbone is another one.
        DeltaError: the module is no change of the backbone's parameters, or of some that its class lacks.
        PathError: something is in the folder.
    """
    folder = Path(folder)
    check_replaceable(folder, (), CARD)
    module.check_fits(backbone.fingerprint, backbone.name, force)
    with backbone.use(Delta.from_module(module)) as attached:
        values = merged_values(attached)
    model: Any = backbone.model
    with backbone.bare():
        state = dict(model.state_dict())
        added = sorted(set(values) - set(state))
        if added:  # a model made anew from the config would have no place for them
            raise DeltaError(
                f"module {module.id!r} cannot be merged into a {type(model).__name__}",
                found=f"{len(added)} biases that this class has not, {added[0]} for example",
                hint="keep it as a module; or train one on places that have a bias",
            )
        with whole_folder(folder, (), CARD) as part, without_chatter():
            model.save_pretrained(part, state_dict={**state, **values})
            backbone.tokenizer.save_pretrained(part)
            (part / CARD).write_text(_card(module, backbone), encoding="utf-8")
    return folder


def export_as(module: Module, folder: Path | str, format: str) -> Path:
    """Write a checkpoint in the format of another library alone, without our card.

    Args:
        module: Of a method that the library has.
        folder: Must not be there, or be empty.
        format: One of `zoo.formats.FORMATS`: "adapterhub", "opendelta", "peft", or "native", which is our own.
    Raises:
        FormatError: there is no such format, or it cannot hold the module; says why.
        PathError: something is in the folder.
    """
    folder, card, format_ = Path(folder), module.card, get_format(format)
    kind, base = card.provenance.get("kind"), card.provenance.get("base_model")
    name = base if isinstance(base, str) else card.backbone
    with whole_folder(folder, (), CARD) as part:
        said_kind = kind if isinstance(kind, str) else None
        format_.write(part, card.method, card.settings, dict(module.tensors()), name, said_kind)
        said = f"A {card.method} module for `{name}`, as a checkpoint of the format {format}."
        (part / CARD).write_text(_page(module, said), encoding="utf-8")
    return folder


def _card(module: Module, backbone: Backbone) -> str:
    return _page(module, f"`{backbone.base_model}` with a {module.card.method} module merged into its weights.")


def _page(module: Module, said: str) -> str:
    card = module.card
    return (
        f"# {module.id}\n\n"
        f"{said}\n\n"
        f"- module: {module.id}\n- task: {card.task} ({card.category})\n- licence of the task's data: {card.license}\n"
        f"- fingerprint of the backbone it was trained on: {card.fingerprint}\n"
    )
