"""What of PEFT has no home here, by name: its other methods, and settings that make something else of a LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import FormatError

# What becomes of a method that changes weights: a backbone of its own, on which other modules can be trained.
MERGE = 'a backbone of its own: PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained("merged")'
RETRAIN = "train it again with peft.LoraConfig(r=8)"

# peft_type -> why it is not read, beside those that are. What is not here is refused by its name alone.
_TYPES = {
    "IA3": "it multiplies activations, and no method here does",
    "ADALORA": "it weighs every rank by a tensor E of its own, which a plain LoRA lacks",
    "LOHA": "its product is taken element by element",
    "LOKR": "its product is Kronecker's",
    "VERA": "its A and B are random, shared by all layers and rescaled",
    "OFT": "it rotates weights",
    "BOFT": "it rotates weights",
    "FOURIERFT": "it adds in the frequency domain",
    "LN_TUNING": "it trains the backbone's own normalisation",
    "XLORA": "it mixes several LoRAs by a network",
    "P_TUNING": "its prompt is made by an encoder",
    "MULTITASK_PROMPT_TUNING": "its prompt is shared by several tasks",
}

# Settings of peft.LoraConfig that make something else of a LoRA; each is refused unless it is empty.
_SETTINGS = {
    "use_dora": "DoRA, whose magnitudes a plain LoRA lacks",
    "use_qalora": "QA-LoRA, whose A sees groups of inputs averaged",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "a bias on B, which a plain LoRA lacks",
    "layer_replication": "replicated layers, which the backbone has not",
    "target_parameters": "parameters that are no layers",
    "trainable_token_indices": "trained token embeddings",
    "alora_invocation_tokens": "activated LoRA, which acts on a part of the text only",
    "arrow_config": "an Arrow router",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}

# Ways of drawing the start that also change the backbone's own weights: the delta is not against those of the Hub.
# "eva", "orthogonal", "gaussian" and "mica" draw A and B alone, and what they end in is a plain LoRA.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def refuse_type(folder: Path, kind: object, readable: list[str]) -> FormatError:
    """The error for a checkpoint of a `peft_type` that is not read."""
    why = _TYPES.get(str(kind))
    return FormatError(
        f"{folder} is a PEFT checkpoint of type {kind}" + (f": {why}" if why else ""),
        found=f"{', '.join(readable)} can be read",
        hint=None if kind is None else (MERGE if why and "prompt" not in why else RETRAIN),
    )


def refuse_variants(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what is no plain LoRA, by the name of the setting.

    Raises:
        FormatError: says what it is, and what to do.
    """
    for name, what in _SETTINGS.items():
        if config.get(name):
            raise FormatError(f"{folder} is not a plain LoRA", found=f"{name}: {what}", hint=MERGE)
    if (bias := config.get("bias", "none")) not in ("none", None):
        raise FormatError(
            f"{folder} also trains biases of the backbone, which would be lost",
            found=f"bias: {bias!r}",
            hint=f'{MERGE}; or train with bias="none"',
        )
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_CHANGES_BASE):
        raise FormatError(
            f"{folder} changes the weights of its backbone before adding the delta",
            found=f"init_lora_weights: {config['init_lora_weights']!r}",
            hint="convert it with peft: model.save_pretrained(folder, path_initial_model_for_weight_conversion=...)",
        )


def refuse_whole_modules(folder: Path, names: list[str]) -> FormatError:
    """The error for parts of the backbone that were trained in full beside the LoRA."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return FormatError(
        f"{folder} also trains parts of the backbone in full, and the LoRA alone is not what was trained",
        found=f"modules_to_save: {shown}",
        hint=MERGE,
    )
