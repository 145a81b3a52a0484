"""Prefixes in PEFT's layout: one tensor for all layers, and no names of places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import count, shape_in
from zoo.formats.peft_names import is_seq2seq, task_type
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

TENSOR = "prompt_embeddings"


def why_not(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why PEFT would compute something else; None if it would not."""
    places = places_of("prefix", settings)
    if is_seq2seq(places):
        return "PEFT's prefix on an encoder-decoder acts on the decoder only, and shares its tensors between layers"
    if settings.get("position_shift") is not True:
        return "its text keeps its own positions, PEFT's prefix shifts them"
    if not settings.get("heads") or not settings.get("head_width"):
        return "the settings do not say how many heads there are and how wide they are"
    if [_layer(place) for place in places] != list(range(len(places))):
        return "it is not on every layer once, as PEFT's prefix is"
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        return "its layers differ in shape"
    return None


def _layer(place: str) -> int | None:
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", place)
    return int(number[1]) if number else None


def config(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], kind: str | None) -> dict[str, Any]:
    """The fields of `PrefixTuningConfig`. Without a task type PEFT would load the prefix and never use it."""
    places = places_of("prefix", settings)
    width = settings["heads"] * settings["head_width"]
    return {
        "peft_type": "PREFIX_TUNING",
        "task_type": task_type(kind, places),
        "num_virtual_tokens": settings["length"],
        "num_layers": len(places),
        "num_attention_heads": settings["heads"],
        "token_dim": width,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": width,
        "prefix_projection": False,
    }


def to_file(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keys and values of all layers in one tensor (length, layers * 2 * width)."""
    parts = [tensors[f"{place}.{part}"] for place in settings["places"] for part in ("prefix_key", "prefix_value")]
    return {TENSOR: torch.stack(parts, dim=1).flatten(1)}


def from_file(settings: Mapping[str, Any], file: FileTensors) -> Mapping[str, torch.Tensor]:
    """The way back, for files of ours."""
    places, shape = places_of("prefix", settings), shape_in(file, TENSOR)
    if len(shape) != 2 or shape[1] % (2 * len(places)):
        raise FormatError(
            f"the prefix in {file.path} has the shape {shape}", found=f"its card names {len(places)} places"
        )
    return _tensors(file, {place: layer for layer, place in enumerate(places)}, len(places))


def _tensors(file: FileTensors, layers: Mapping[str, int], n_layers: int) -> Mapping[str, torch.Tensor]:
    return RenamedTensors(
        {
            f"{place}.{part}": partial(_slot, file, 2 * layer + offset, n_layers)
            for place, layer in layers.items()
            for offset, part in enumerate(("prefix_key", "prefix_value"))
        }
    )


def _slot(file: FileTensors, slot: int, n_layers: int) -> torch.Tensor:
    """One key or value, (length, width): a view into the mapped file, cast if the file's reader casts."""
    whole = file.stored(TENSOR)
    length, width = whole.shape
    found = whole.view(length, 2 * n_layers, width // (2 * n_layers))[:, slot]
    return found if file.dtype is None else found.to(file.dtype)


def read(folder: Path, config: Mapping[str, Any], file: FileTensors, places: Sequence[str] | None) -> Checkpoint:
    """Read anyone's prefix onto `places`, the self-attention modules in model order."""
    length, n_layers = count(folder, config, "num_virtual_tokens"), count(folder, config, "num_layers")
    heads, width = count(folder, config, "num_attention_heads"), count(folder, config, "token_dim")
    shape = shape_in(file, TENSOR)
    if shape != (length, n_layers * 2 * width) or width % heads:
        raise FormatError(
            f"the prefix in {folder} has the shape {shape}",
            found=f"its config says {(length, n_layers * 2 * width)} with {heads} heads",
        )
    if places is None:
        raise FormatError(
            f"the prefix in {folder} does not say where it goes",
            hint="give the self-attention modules of its backbone: Prefix().places(backbone.model)",
        )
    submodules = config.get("num_transformer_submodules") or (2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1)
    notes, chosen = [], list(places)
    if submodules == 2:
        chosen = [place for place in places if "decoder" in place.split(".")]
        notes.append("the prefix acts on the decoder's self-attention only, as PEFT's does on encoder-decoders")
    if not chosen or len(chosen) > n_layers or (submodules == 1 and len(chosen) != n_layers):
        raise FormatError(
            f"the prefix in {folder} does not go on this backbone",
            found=f"it has {n_layers} layers, {len(chosen)} places were given",
            hint="name the backbone that it was trained on",
        )
    # With two submodules PEFT doubles the tensor and gives each decoder layer four slots, of which it uses two.
    layers = {place: (submodules * index) % n_layers for index, place in enumerate(chosen)}
    settings = {
        "length": length,
        "position_shift": submodules == 1,
        "reparameterisation": None,
        "where": ["attn"],
        "heads": heads,
        "head_width": width // heads,
        "places": chosen,
    }
    return Checkpoint(
        method="prefix",
        settings=settings,
        tensors=_tensors(file, layers, n_layers),
        backbone=str(config.get("base_model_name_or_path") or ""),
        dropped=tuple(name for name in file if name != TENSOR),
        notes=tuple(notes),
    )
