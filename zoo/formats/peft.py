"""PEFT checkpoints: `adapter_config.json` and `adapter_model.safetensors`, written and read for LoRA, prefixes and soft
prompts.

Formats as peft 0.21 has them (github.com/huggingface/peft, `peft/utils/save_and_load.py`). Keys and values of all
prefixes are one tensor `prompt_embeddings` (length, layers * 2 * width): for each layer its key, then its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.files import plain_file
from zoo.formats import peft_lora, peft_prefix, peft_prompt
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import read_config, write_config
from zoo.formats.peft_variants import refuse_type
from zoo.formats.pickles import open_weights
from zoo.tensors import FileTensors, write_tensors

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
RESAVE = "model.save_pretrained(folder)"

_PARTS = {"lora": peft_lora, "prefix": peft_prefix, "soft-prompt": peft_prompt}
_TYPES = {"LORA": peft_lora, "PREFIX_TUNING": peft_prefix, "PROMPT_TUNING": peft_prompt}


def is_here(folder: Path) -> bool:
    """True if the folder may hold a checkpoint of PEFT."""
    return (folder / CONFIG).is_file()


def nameless(folder: Path) -> str | None:
    """The method of a checkpoint whose file names no places, so that `read` needs those it goes on by default."""
    return {"PREFIX_TUNING": "prefix", "PROMPT_TUNING": "soft-prompt"}.get(
        str(read_config(folder / CONFIG).get("peft_type"))
    )


def fits(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """True if PEFT can hold these tensors and computes with them what we do."""
    part = _PARTS.get(method)
    return part is not None and part.why_not(settings, tensors) is None


def write(
    folder: Path,
    method: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    backbone_name: str,
    kind: str | None = None,
) -> list[str]:
    """Write a checkpoint that `PeftModel.from_pretrained(model, folder)` loads; returns the names of its files.

    Args:
        folder: Exists.
        method: "lora", "prefix" or "soft-prompt".
        settings: With places, in model order.
        tensors: Canonical name -> tensor, written in the dtype they have.
        backbone_name: `base_model_name_or_path` of the config.
        kind: "encoder", "seq2seq" or "causal", which decides PEFT's task type; None reads it off the places.
    Raises:
        FormatError: PEFT does not know the method, or cannot do what the settings say; says why.
    """
    part = _PARTS.get(method)
    if part is None:
        raise FormatError(
            f"PEFT has no {method} of ours", found=f"it holds {', '.join(_PARTS)}", hint="zoo.formats.native holds any"
        )
    reason = part.why_not(settings, tensors)
    if reason is not None:
        raise FormatError(f"this {method} module cannot be a PEFT checkpoint", found=reason)
    config = {"base_model_name_or_path": backbone_name, "inference_mode": True, **part.config(settings, tensors, kind)}
    write_config(folder / CONFIG, config)
    write_tensors(folder / TENSORS, part.to_file(settings, tensors))
    return [CONFIG, TENSORS]


def read(
    folder: Path,
    places: Sequence[str] | None = None,
    attention_places: Sequence[str] | None = None,
    *,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Read a PEFT folder, of ours or of anyone else.

    Args:
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        places: Names of the modules of the backbone's inner model. With them the front of the checkpoint's names is
            fitted to the model; without them the prefixes of known task classes (`bert.`) are stripped.
        attention_places: For what has no names in its file (`places` is used if they are left out): the self-attention
            modules in model order for a prefix, the input embeddings for a soft prompt.
        allow_pickle: Read `adapter_model.bin` where there is no safetensors file: tensors and nothing else.
    Raises:
        FormatError: it is a pickle, a variant that is not a plain LoRA, prefix or soft prompt, or does not go with
            the places.
        TensorError: the tensors cannot be read.
    """
    config = read_config(folder / CONFIG)
    part = _TYPES.get(str(config.get("peft_type")))
    if part is None:
        raise refuse_type(folder, config.get("peft_type"), list(_TYPES))
    file = open_weights(folder, TENSORS, PICKLE, allow_pickle, RESAVE)
    given = attention_places if part is not peft_lora and attention_places is not None else places
    return part.read(folder, config, file, given)


def open_tensors(
    folder: Path, method: str, settings: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Mapping[str, torch.Tensor]:
    """Canonical name -> tensor of a folder that `write` made, mapped lazily."""
    if method not in _PARTS:
        raise FormatError(f"{folder} holds PEFT's files, and its card says {method!r}", found=f"{', '.join(_PARTS)}")
    return _PARTS[method].from_file(settings, FileTensors(plain_file(folder / TENSORS), dtype))
