"""How tensors lie in a module folder: as a PEFT checkpoint where PEFT knows the method, else in a format of our own.

A format is a file here with `fits`, `write`, `read` and `open_tensors`, and an entry in `FORMATS`; the first one that
fits a module's method and settings writes it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo.errors import FormatError

if TYPE_CHECKING:
    import torch

# config file that tells the format -> the file that reads and writes it
FORMATS: dict[str, str] = {
    "adapter_config.json": "zoo.formats.peft",
    "delta_config.json": "zoo.formats.native",
}


def format_for(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> ModuleType:
    """The format that a module of this method and these settings is written in."""
    for name in FORMATS.values():
        format_ = importlib.import_module(name)
        if format_.fits(method, settings, tensors):
            return format_
    raise FormatError(f"no format holds a {method!r} module with these tensors", found=", ".join(FORMATS))


def detect(folder: Path) -> ModuleType:
    """The format of the checkpoint in a folder.

    Raises:
        FormatError: there is none, or it is one that is refused.
    """
    for file, name in FORMATS.items():
        if (folder / file).is_file():
            return importlib.import_module(name)
    there = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    raise FormatError(
        f"no checkpoint in {folder}",
        found=", ".join(there) or "nothing",
        hint=f"a folder with {' or '.join(FORMATS)} in it",
    )
