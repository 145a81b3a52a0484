"""A module folded into its backbone: a plain Hugging Face model that needs neither this package nor PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.deltas.delta import Delta
from transfer.deltas.folding import merged_values
from transfer.errors import DeltaError
from zoo import Module
from zoo.folders import check_replaceable, whole_folder

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
        with whole_folder(folder, (), CARD) as part:
            model.save_pretrained(part, state_dict={**state, **values})
            backbone.tokenizer.save_pretrained(part)
            (part / CARD).write_text(_card(module, backbone), encoding="utf-8")
    return folder


def _card(module: Module, backbone: Backbone) -> str:
    card = module.card
    return (
        f"# {module.id}\n\n"
        f"`{backbone.base_model}` with a {card.method} module merged into its weights.\n\n"
        f"- module: {module.id}\n- task: {card.task} ({card.category})\n- licence of the task's data: {card.license}\n"
        f"- fingerprint of the backbone before: {card.fingerprint}\n"
    )
