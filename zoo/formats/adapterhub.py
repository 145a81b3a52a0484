"""AdapterHub's checkpoints: `adapter_config.json` and `adapter.safetensors` (or `pytorch_adapter.bin`), read and
written for bottleneck adapters and LoRA.

Formats as adapters 1.3 has them (github.com/adapter-hub/adapters, `src/adapters/loading.py`), and as its older versions
had them under the name adapter-transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats import adapterhub_bottleneck, adapterhub_lora
from zoo.formats.adapterhub_places import TYPES, family_of
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import Parts, read_config, write_config
from zoo.formats.pickles import open_weights
from zoo.tensors import FileTensors, write_tensors

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"
HEAD = "head_config.json"
RESAVE = "model.save_adapter(folder, name, use_safetensors=True)"
VERSION = "adapters.1.3.0"  # whose layout this is
NAME = "delta"  # of the adapter in what is written

_PARTS = {"lora": adapterhub_lora, "adapter": adapterhub_bottleneck}
_OTHERS = {
    "prefix_tuning": "its prefixes are made by a network",
    "prompt_tuning": "its prompt goes before the embeddings in a way of its own",
    "reft": "it changes hidden states by projections",
    "union": "it is several deltas at once",
    "mtl_lora": "it is several LoRAs, one for each task",
}
# config: "pfeiffer" in place of the settings, as the first files have it
_NAMED: dict[str, dict[str, Any]] = {
    name: {"original_ln_before": True, "non_linearity": "relu"} for name in ("pfeiffer", "seq_bn")
} | {name: {"original_ln_before": False, "non_linearity": "swish"} for name in ("houlsby", "double_seq_bn")}
_RENAMED = {"gelu": "gelu_new", "gelu_orig": "gelu"}  # activations, before files named a version

_TENSOR = re.compile(
    r"(?P<place>.+)\.(?:adapters|loras|(?:attention|layer)_text_(?:task|lang)_adapters)\.(?P<name>[^.]+)\.(?P<part>.+)"
)


def is_here(folder: Path) -> bool:
    """True if the folder's `adapter_config.json` is AdapterHub's; PEFT's has the same name."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_config(folder / CONFIG)
    return "peft_type" not in config and "config" in config


def nameless(folder: Path) -> str | None:
    """None: the file says where its tensors go."""
    return None


def fits(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """True if `adapters` can hold these tensors and computes with them what we do."""
    return why_not(method, settings, tensors) is None


def why_not(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why `adapters` cannot hold such a module; None if it can."""
    part = _PARTS.get(method)
    return f"it holds {', '.join(_PARTS)} of ours" if part is None else part.why_not(settings, tensors)


def write(
    folder: Path,
    method: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    backbone_name: str,
    kind: str | None = None,
) -> list[str]:
    """Write what `model.load_adapter(folder, use_safetensors=True)` loads; returns the names of its files.

    Args:
        tensors: Canonical name -> tensor, written in the dtype they have.
        backbone_name: For people.
        kind: Of backbone; not needed here.
    Raises:
        FormatError: `adapters` does not know the method or the places, or cannot do what the settings say.
    """
    reason = why_not(method, settings, tensors)
    if reason is not None:
        raise FormatError(
            f"this {method} module cannot be an AdapterHub checkpoint",
            found=reason,
            hint="zoo.formats.native holds any",
        )
    part = _PARTS[method]
    own, family, width = part.config(settings, tensors)
    config = {
        "config": own,
        "hidden_size": width,
        "model_name": backbone_name,
        "model_type": family.types[0],  # models of a family name their parts alike; the package does not look at it
        "name": NAME,
        "version": VERSION,
    }
    write_config(folder / CONFIG, config)
    write_tensors(folder / TENSORS, part.to_file(settings, tensors, NAME))
    return [CONFIG, TENSORS]


def read(
    folder: Path,
    places: Sequence[str] | None = None,
    attention_places: Sequence[str] | None = None,
    *,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Read a folder that `model.save_adapter(folder, name)` wrote.

    Args:
        folder: With `adapter_config.json` and `adapter.safetensors` or `pytorch_adapter.bin`.
        places: Names of the modules of the backbone's inner model, to which the front of all names is fitted.
        attention_places: Not needed: the file names its places.
        allow_pickle: Read `pytorch_adapter.bin` where there is no safetensors file: tensors and nothing else.
    Raises:
        FormatError: it is a pickle and that is not allowed, no bottleneck adapter or LoRA that the methods here can
            compute, or does not go with the places.
        TensorError: the tensors cannot be read.
    """
    outer = read_config(folder / CONFIG)
    config = _own(folder, outer)
    kind = config.get("architecture")
    if kind not in (None, "lora"):
        why = _OTHERS.get(str(kind))
        raise FormatError(
            f"{folder} is an AdapterHub checkpoint of type {str(kind)[:40]!r}" + (f": {why}" if why else ""),
            found="bottleneck adapters and lora can be read",
        )
    family = family_of(outer.get("model_type"))
    if family is None and kind is None:
        raise FormatError(
            f"{folder} is an adapter for models of type {str(outer.get('model_type'))[:40]!r}",
            found=f"known are {', '.join(TYPES)}",
        )
    file = open_weights(folder, TENSORS, PICKLE, allow_pickle, RESAVE)
    backbone = str(outer.get("model_name") or "")
    if kind == "lora":
        found = _sorted(folder, file, adapterhub_lora.LOCAL)
        checkpoint = adapterhub_lora.read(
            folder, config, family, found, file, places, backbone, _scaled_by_one(str(outer.get("version", "")))
        )
    else:
        assert family is not None
        local = {**adapterhub_bottleneck.LOCAL, adapterhub_bottleneck.SCALING: adapterhub_bottleneck.SCALING}
        adapterhub_bottleneck.check(folder, config)  # before the tensors, which would be odd for the same reason
        found = _sorted(folder, file, local)
        checkpoint = adapterhub_bottleneck.read(folder, config, family, found, file, places, backbone)
    return _with_head(folder, checkpoint)


def _own(folder: Path, outer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the adapter itself."""
    config = outer.get("config")
    if isinstance(config, str) and config in _NAMED:
        config = _NAMED[config]
    if not isinstance(config, dict):
        raise FormatError(
            f"{folder} does not say what kind of adapter it is",
            found=f"config: {str(config)[:80]!r}",
            hint=f"its settings, or one of {', '.join(_NAMED)}",
        )
    # Files of version 1 have some names in capitals: MH_Adapter, LN_before.
    config = {str(name).lower(): value for name, value in config.items()}
    said = config.get("non_linearity")
    if "version" not in outer and isinstance(said, str):
        config["non_linearity"] = _RENAMED.get(said, said)
    return config


def _sorted(folder: Path, file: FileTensors, local: Mapping[str, str]) -> Parts:
    """Place -> local name -> name in the file."""
    found, names = Parts(), set()
    for inside in file:
        match = _TENSOR.fullmatch(inside)
        if match is None or match["part"] not in local:
            raise FormatError(
                f"{folder} has a tensor that is no part of a plain adapter",
                found=inside[:120],
                hint="invertible adapters are not read: train without them" if "invertible" in inside else None,
            )
        found.setdefault(match["place"], {})[local[match["part"]]] = inside
        names.add(match["name"])
    if len(names) > 1:
        raise FormatError(f"{folder} holds several adapters", found=", ".join(sorted(names))[:120])
    return found


def _scaled_by_one(version: str) -> bool:
    """True for the versions of `adapters` before 1.1, whose LoRA did not scale by alpha / r."""
    match = re.match(r"adapters\.(\d+)\.(\d+)", version)
    return match is not None and (int(match[1]), int(match[2])) < (1, 1)


def _with_head(folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    if not (folder / HEAD).is_file():
        return checkpoint
    told = f"the head beside it ({HEAD}) was left out: answers are scored without one"
    return Checkpoint(**{**vars(checkpoint), "notes": (*checkpoint.notes, told)})
