"""Shared starts: the tensors that all modules of one method, settings and backbone were trained from, stored once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ChecksumError, TensorError, UnknownModuleError
from zoo.files import plain_file, write_whole
from zoo.names import check_start, short_start

if TYPE_CHECKING:
    import torch

FOLDER = "starts"
_VERIFIED: set[tuple[str, int, int, int]] = set()


class StartTakenError(TensorError):
    """The zoo has another start of that name."""


def start_name(method: str, settings: Mapping[str, Any], fingerprint: str) -> str:
    """`<method>-<8 hex of the settings>-<8 hex of the fingerprint>`.

    Args:
        method: "lora", "adapter", ...
        settings: What decides names and shapes of the start, as JSON; not the dropout, for example.
        fingerprint: Of the backbone.
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return check_start(f"{method}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-{fingerprint[:8]}")


def shape_settings(method: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The settings to name a start by, read off its tensors."""
    return {"method": method, "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()}}


def write_start(zoo: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Store a start under a name, once; the name it has is given back.

    A start that fp16 holds exactly is stored in fp16.

    Raises:
        TensorError: it is not finite, or another start has that name.
    """
    from safetensors.torch import save

    from zoo.tensors import check_values, digest

    check_values(tensors)
    kept = halved(tensors)
    found = digest(kept)
    path = zoo / FOLDER / f"{check_start(name)}.safetensors"
    if path.exists():
        if _recorded(path) != found:
            raise StartTakenError(
                f"the zoo has another start named {name!r}",
                hint="train from the stored one, zoo.get_start(name): modules of one start can be averaged",
            )
        return name
    write_whole(path, save(kept, metadata={"format": "pt", "digest": found}))
    return name


def write_start_beside(zoo: Path, name: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """The same, but where another start has the name already, it is stored beside it under a longer one.

    A module from elsewhere comes with the start it was trained from, which need not be the one of this zoo.
    """
    from zoo.tensors import digest

    try:
        return write_start(zoo, name, tensors)
    except StartTakenError:
        return write_start(zoo, f"{short_start(name)}-{digest(halved(tensors))[:8]}", tensors)


def has_start(zoo: Path, name: str) -> bool:
    """Whether the zoo has a start of that name."""
    return (zoo / FOLDER / f"{check_start(name)}.safetensors").is_file()


def read_start(
    zoo: Path, name: str, dtype: torch.dtype | None = None, again: bool = False
) -> Mapping[str, torch.Tensor]:
    """Canonical name -> tensor, mapped lazily.

    Args:
        zoo: Root of the zoo.
        name: Of the start.
        dtype: What the tensors are cast to, or None.
        again: Check the content even if this process has done so before.

    Raises:
        UnknownModuleError: there is none of that name.
        ChecksumError: it is not the one that was stored.
    """
    from zoo.tensors import FileTensors, digest

    path = zoo / FOLDER / f"{check_start(name)}.safetensors"
    try:
        state = plain_file(path).lstat()
    except FileNotFoundError:
        there = sorted(found.stem for found in (zoo / FOLDER).glob("*.safetensors"))
        raise UnknownModuleError(f"no start named {name!r} in {zoo}", found=", ".join(there) or "no starts") from None
    key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
    if again or key not in _VERIFIED:
        file = FileTensors(path)
        if digest(dict(file)) != file.metadata.get("digest"):
            raise ChecksumError(f"{path} is not the start that was stored", hint="train the modules again")
        _VERIFIED.add(key)
    return FileTensors(path, dtype)


def _recorded(path: Path) -> str | None:
    from zoo.tensors import FileTensors

    return FileTensors(plain_file(path)).metadata.get("digest")


def halved(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In fp16 where that changes nothing, else as they are; copies that share no memory."""
    import torch

    half = {name: tensor.detach().cpu().half().contiguous().clone() for name, tensor in tensors.items()}
    if all(torch.equal(half[name].to(tensor.dtype), tensor.detach().cpu()) for name, tensor in tensors.items()):
        return half
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
