"""Soft prompts in PEFT's layout: one tensor of vectors, and no name of the embeddings they stand before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import count, shape_in
from zoo.formats.peft_names import TASK_TYPES, task_type
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

TENSOR = "prompt_embeddings"

# Last part of the name of input embeddings -> what they are mostly the input of, where nobody says
_KINDS = {"shared": "seq2seq", "wte": "causal", "embed_tokens": "causal", "embed_in": "causal"}


def why_not(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why PEFT would compute something else; None if it would not."""
    places = places_of("soft-prompt", settings)
    return None if len(places) == 1 else f"PEFT's soft prompt has one place, this one {len(places)}"


def config(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], kind: str | None) -> dict[str, Any]:
    """The fields of `PromptTuningConfig`. One submodule: by itself PEFT makes a second half for a decoder, unused."""
    place = places_of("soft-prompt", settings)[0]
    if kind is None and ("encoder" in place.split(".") or place.rpartition(".")[2] in _KINDS):
        kind = "seq2seq" if "encoder" in place.split(".") else _KINDS[place.rpartition(".")[2]]
    return {
        "peft_type": "PROMPT_TUNING",
        "task_type": TASK_TYPES["encoder"] if kind is None else task_type(kind, [place]),
        "num_virtual_tokens": settings["length"],
        "token_dim": tensors[f"{place}.{TENSOR}"].shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }


def to_file(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Canonical names -> names in the file."""
    return {TENSOR: tensors[f"{settings['places'][0]}.{TENSOR}"]}


def from_file(settings: Mapping[str, Any], file: FileTensors) -> Mapping[str, torch.Tensor]:
    """The way back, for files of ours."""
    place = places_of("soft-prompt", settings)[0]
    shape_in(file, TENSOR)
    return RenamedTensors({f"{place}.{TENSOR}": partial(file.__getitem__, TENSOR)})


def read(folder: Path, config: Mapping[str, Any], file: FileTensors, places: Sequence[str] | None) -> Checkpoint:
    """Read anyone's soft prompt onto `places`, the name of the input embeddings of the encoder or of the model."""
    shape = shape_in(file, TENSOR)
    length, submodules = count(folder, config, "num_virtual_tokens"), config.get("num_transformer_submodules")
    # A prompt that PEFT made for encoder and decoder has as many vectors again, which it never reads.
    if len(shape) != 2 or submodules not in (None, 1, 2) or shape[0] not in (length, length * (submodules or 2)):
        raise FormatError(
            f"the soft prompt in {folder} has the shape {shape}",
            found=f"its config says {length} vectors, for {submodules!r} parts of the model",
        )
    if places is None or len(places) != 1:
        raise FormatError(
            f"the soft prompt in {folder} does not say where it goes",
            hint="give the input embeddings of its backbone: SoftPrompt().places(backbone.model)",
        )
    notes = []
    if shape[0] > length:
        notes.append(f"{length} of {shape[0]} vectors are read: PEFT never uses the others")
    settings = {"length": length, "init": "random", "where": [], "places": list(places)}
    return Checkpoint(
        method="soft-prompt",
        settings=settings,
        tensors=RenamedTensors({f"{places[0]}.{TENSOR}": partial(_first, file, length)}),
        backbone=str(config.get("base_model_name_or_path") or ""),
        dropped=tuple(name for name in file if name != TENSOR),
        notes=tuple(notes),
    )


def _first(file: FileTensors, length: int) -> torch.Tensor:
    return file[TENSOR][:length]
