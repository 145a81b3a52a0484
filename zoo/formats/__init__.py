"""How tensors lie in a folder: as a PEFT checkpoint where PEFT knows the method, else in a format of our own.

A format is a file here with `is_here`, `fits`, `write` and `read`, and an entry in `FORMATS`. A zoo stores a module in
the first of `STORED` that fits its method and settings; those two also have `open_tensors`. The others are what other
libraries write and read.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo.errors import FormatError

if TYPE_CHECKING:
    import torch

# name -> file
FORMATS: dict[str, str] = {
    "native": "zoo.formats.native",
    "adapterhub": "zoo.formats.adapterhub",  # before PEFT, whose config has the same name
    "peft": "zoo.formats.peft",
    "opendelta": "zoo.formats.opendelta",
}
STORED = ("peft", "native")
MARKS = ("adapter_config.json", "delta_config.json", "config.json")  # files that a checkpoint is told by


def get_format(name: str) -> ModuleType:
    """The format of that name; FormatError if there is none."""
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        raise FormatError(
            f"no format named {name!r}",
            found=", ".join(sorted(FORMATS)),
            hint=f"--format {close[0]}" if close else None,
        )
    return importlib.import_module(FORMATS[name])


def format_for(method: str, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> ModuleType:
    """The format that a zoo stores a module of this method and these settings in."""
    for name in STORED:
        format_ = get_format(name)
        if format_.fits(method, settings, tensors):
            return format_
    raise FormatError(f"no format holds a {method!r} module with these tensors", found=", ".join(STORED))


def _here(folder: Path, names: Iterable[str]) -> ModuleType | None:
    """The first of these formats that lies in a folder."""
    return next((format_ for format_ in map(get_format, names) if format_.is_here(folder)), None)


def stored(folder: Path) -> ModuleType:
    """The format that a zoo stored the module of a folder in.

    Raises:
        FormatError: it is in none of these.
    """
    if (found := _here(folder, STORED)) is not None:
        return found
    raise FormatError(f"{folder} holds no module as a zoo stores them", hint="transfer zoo verify tells more")


def detect(folder: Path) -> ModuleType:
    """The format of the checkpoint in a folder.

    Raises:
        FormatError: there is none.
    """
    if (found := _here(folder, FORMATS)) is not None:
        return found
    there = sorted(path.name for path in folder.iterdir())[:8] if folder.is_dir() else []
    raise FormatError(
        f"no checkpoint in {folder}",
        found=", ".join(there) or "nothing",
        hint=f"a folder with {', '.join(MARKS[:-1])} or {MARKS[-1]} of a checkpoint in it",
    )
