"""Our own format, for methods that PEFT lacks: `delta_config.json` and `delta.safetensors` with canonical names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.files import followed_file, plain_file
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import read_config, write_config
from zoo.tensors import FileTensors, write_tensors

CONFIG, TENSORS = "delta_config.json", "delta.safetensors"
VERSION = 1


def is_here(folder: Path) -> bool:
    """True if the folder holds a checkpoint of this format."""
    return (folder / CONFIG).is_file()


def nameless(folder: Path) -> str | None:
    """None: all names are there."""
    return None


def fits(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Always: any method's tensors can lie under their own names."""
    return True


def write(
    folder: Path,
    method: str,
    settings: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    backbone_name: str,
    kind: str | None = None,
) -> list[str]:
    """Write the two files into a folder that exists; returns their names.

    Args:
        tensors: Canonical name -> tensor, written in the dtype they have.
        backbone_name: For people.
        kind: Of backbone; not needed here.
    """
    config = {"version": VERSION, "method": method, "settings": dict(settings), "backbone": backbone_name}
    write_config(folder / CONFIG, config)
    write_tensors(folder / TENSORS, tensors)
    return [CONFIG, TENSORS]


def read(
    folder: Path,
    places: Sequence[str] | None = None,
    attention_places: Sequence[str] | None = None,
    *,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Read a folder that `write` made; names are canonical already, so places are not needed, and there is no pickle.

    Raises:
        FormatError: the files are not those of this format.
        TensorError: the tensors cannot be read.
    """
    config = read_config(folder / CONFIG)
    method, settings, version = config.get("method"), config.get("settings"), config.get("version")
    if version != VERSION:
        raise FormatError(f"{folder / CONFIG} has version {version!r}", found=f"this version reads {VERSION}")
    if not isinstance(method, str) or not isinstance(settings, dict):
        raise FormatError(f"{folder / CONFIG} has no method or no settings", found=", ".join(config))
    return Checkpoint(
        method=method,
        settings=settings,
        tensors=FileTensors(followed_file(folder / TENSORS)),
        backbone=str(config.get("backbone") or ""),
    )


def open_tensors(
    folder: Path, method: str, settings: Mapping[str, Any], dtype: torch.dtype | None = None
) -> Mapping[str, torch.Tensor]:
    """Canonical name -> tensor, mapped lazily."""
    return FileTensors(plain_file(folder / TENSORS), dtype)
