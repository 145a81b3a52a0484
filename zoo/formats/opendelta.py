"""OpenDelta's checkpoints: `config.json` and `pytorch_model.bin`, read and written for LoRA, adapter and prefix.

Formats as OpenDelta 0.3.2 has them (github.com/thunlp/OpenDelta, `opendelta/utils/saving_loading_utils.py`): the
backbone's state dict with the delta's tensors alone, under the names of the modules that hold them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import read_config, write_config
from zoo.formats.opendelta_parts import ADAPTER, LORA
from zoo.formats.opendelta_prefix import PREFIX
from zoo.formats.pickles import open_weights, write_pickle

CONFIG, TENSORS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
RESAVE = f'safetensors.torch.save_file(torch.load("{PICKLE}"), "{TENSORS}")'
VERSION = "0.3.2"  # of OpenDelta, whose layout this is

_PARTS = {"lora": LORA, "adapter": ADAPTER, "prefix": PREFIX}
_OTHERS = {
    "low_rank_adapter": "its matrices are products, which are no adapter's tensors",
    "compacter": "its matrices are sums of Kronecker products, which are no adapter's tensors",
    "parallel_adapter": "its file does not say which output each adapter is added to",
    "bitfit": "its file holds the biases themselves, not what was added to them",
    "soft_prompt": "it may have been drawn from the vocabulary, and acts before the embeddings of the encoder alone",
}


def is_here(folder: Path) -> bool:
    """True if the folder's `config.json` is a delta's; a model's own has the same name."""
    if not (folder / CONFIG).is_file():
        return False
    return "delta_type" in read_config(folder / CONFIG)


def nameless(folder: Path) -> str | None:
    """ "prefix" for one: it is named after the attentions in another way, so that `read` needs them."""
    return "prefix" if read_config(folder / CONFIG).get("delta_type") == "prefix" else None


def fits(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """True if OpenDelta can hold these tensors and computes with them what we do."""
    return why_not(method, settings) is None


def why_not(method: str, settings: Mapping[str, Any]) -> str | None:
    """Why OpenDelta cannot hold such a module; None if it can."""
    part = _PARTS.get(method)
    return f"it holds {', '.join(_PARTS)} of ours" if part is None else part.why_not(settings)


def write(
    folder: Path,
    method: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    backbone_name: str,
    kind: str | None = None,
) -> list[str]:
    """Write what `AutoDeltaModel.from_finetuned(folder, backbone_model=model)` loads; returns the names of its files.

    Args:
        tensors: Canonical name -> tensor, written in the dtype they have.
        backbone_name: For people; the hash that OpenDelta may hold against its backbone is left out.
        kind: Of backbone; not needed here.
    Raises:
        FormatError: OpenDelta does not know the method, or cannot do what the settings say.
    """
    reason = why_not(method, settings)
    if reason is not None:
        raise FormatError(
            f"this {method} module cannot be an OpenDelta checkpoint", found=reason, hint="zoo.formats.native holds any"
        )
    part = _PARTS[method]
    config = {
        "delta_type": method,
        **part.config(settings),
        "modified_modules": part.modified(settings),
        "exclude_modules": [],
        "common_structure": False,
        "backbone_checkpoint_name": backbone_name,
        "opendelta_version": VERSION,
    }
    write_config(folder / CONFIG, config)
    write_pickle(folder / PICKLE, part.to_file(settings, tensors))
    return [CONFIG, PICKLE]


def read(
    folder: Path,
    places: Sequence[str] | None = None,
    attention_places: Sequence[str] | None = None,
    *,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Read a folder that OpenDelta wrote.

    Args:
        folder: With `config.json` and `pytorch_model.bin`, or `model.safetensors` that was made of it.
        places: Names of the modules of the backbone's inner model, to which the front of all names is fitted.
        attention_places: Its self-attention modules in model order; needed for a prefix.
        allow_pickle: Read `pytorch_model.bin`: tensors and nothing else.
    Raises:
        FormatError: it is a pickle and that is not allowed, a method that has no home here, or does not go with the
            places.
        TensorError: the tensors cannot be read.
    """
    config = read_config(folder / CONFIG)
    kind = config.get("delta_type")
    part = _PARTS.get(str(kind))
    if part is None:
        why = _OTHERS.get(str(kind))
        raise FormatError(
            f"{folder} is an OpenDelta checkpoint of type {kind!r}" + (f": {why}" if why else ""),
            found=f"{', '.join(_PARTS)} can be read",
            hint="train it here: transfer finetune --target TASK --method adapter" if why else None,
        )
    file = open_weights(folder, TENSORS, PICKLE, allow_pickle, RESAVE)
    return part.read(folder, config, file, places, attention_places)
