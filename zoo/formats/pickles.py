"""Tensors in torch's pickles, read only when it is asked for, and never by running what a pickle says.

torch's restricted loader (`weights_only=True`) makes tensors and plain containers and nothing else. What it leaves
open is checked before it is called: it would unpack a small file into any amount of memory, and take the word of an
old file for how long its tensors are.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError, TensorError
from zoo.files import followed_file
from zoo.tensors import MAX_HEADER, FileTensors, check_value


class PickleTensors(FileTensors):
    """The tensors of a file that `torch.save(state_dict, path)` wrote, mapped into memory.

    Args:
        path: Of the file.
        dtype: What they are cast to, or None for what is stored.
    Raises:
        TensorError: it is not such a file, holds anything but tensors by name, or is built to fill the memory.
    """

    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None:
        self.path, self.dtype = path, dtype
        self._tensors = _load(path)
        self._names = list(self._tensors)
        self._known = set(self._names)
        self._checked: set[str] = set()

    def stored(self, name: str) -> torch.Tensor:
        tensor = self._tensors[name]
        if name not in self._checked:
            check_value(name, tensor)
            self._checked.add(name)
        return tensor

    @property
    def metadata(self) -> dict[str, str]:
        return {}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}


def open_weights(folder: Path, safe: str, pickled: str, allow_pickle: bool, resave: str) -> FileTensors:
    """The tensors of a stranger's folder: from its safetensors file, or from its pickle if that is allowed.

    Args:
        folder: Of the checkpoint.
        safe: Name of the safetensors file.
        pickled: Name of the pickle.
        allow_pickle: Read the pickle where there is nothing else.
        resave: Code of the other library that writes a safetensors file.
    Raises:
        FormatError: there is neither, or only a pickle and it is not allowed.
        TensorError: the file cannot be read.
        PathError: it is a link that leads away from the folder.
    """
    if (folder / safe).is_file():
        return FileTensors(followed_file(folder / safe))
    if not (folder / pickled).is_file():
        raise FormatError(f"{folder} has no {safe}", hint="name the folder that the checkpoint lies in")
    if not allow_pickle:
        raise FormatError(
            f"{folder} has no {safe}",
            found=f"{pickled}, a pickle, which could run any code when it is loaded",
            hint=f"load it where you trust it and save it again with {resave}; or --allow-pickle, which reads tensors "
            "and nothing else",
        )
    return PickleTensors(followed_file(folder / pickled))


def write_pickle(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write what `PickleTensors` reads, for libraries that read nothing else."""
    torch.save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)  # a checkpoint may be shared


def _load(path: Path) -> dict[str, torch.Tensor]:
    size = _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch thinks of old files
            # Mapped: then a storage is a part of the file, and can't be longer than it.
            found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a broken or hostile pickle makes of the loader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TensorError(f"{path} is not a pickle of tensors that can be read", found=reason[:200]) from None
    if not isinstance(found, Mapping) or not found:
        raise TensorError(f"{path} does not hold tensors by name", found=type(found).__name__)
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise TensorError(
                f"{path} does not hold tensors by name", found=f"{str(name)[:80]}: {type(tensor).__name__}"
            )
        if tensor.numel() * tensor.element_size() > size:
            raise TensorError(
                f"{name} in {path} is of shape {tuple(tensor.shape)}", found=f"the file has {size:,} bytes"
            )
    return dict(found)


def _check_archive(path: Path) -> int:
    """Bytes of the file, once it is sure that nothing in it is longer than it looks."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise TensorError(
            f"{path} is not a pickle of tensors that can be read",
            found=f"no zip archive, as torch writes since 1.6: {error}",
            hint="load it with torch where you trust it and save it again",
        ) from None
    packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
    if packed or sum(part.file_size for part in parts) > size:
        raise TensorError(f"{path} unpacks to more than it is", found=packed[0][:80] if packed else "overlapping parts")
    index = max((part.file_size for part in parts if part.filename.endswith("data.pkl")), default=0)
    if index > MAX_HEADER:
        raise TensorError(f"{path} has {index:,} bytes of names", found=f"at most {MAX_HEADER:,} are read")
    return size
