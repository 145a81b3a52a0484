"""Tensors in files: hashing, checking, writing whole, and reading lazily through the memory map."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zoo.errors import TensorError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 16 << 20  # bytes of names and shapes in a file; those of a hundred thousand tensors are about 12 MB
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits: sha256 of names (sorted), dtypes, shapes and bytes, whatever file they lie in."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check_values(tensors: Mapping[str, Tensor]) -> None:
    """TensorError unless all are floating point, not empty and finite."""
    for name, tensor in tensors.items():
        check_value(name, tensor)


def check_value(name: str, tensor: Any) -> None:
    """The same for one tensor."""
    if not isinstance(tensor, torch.Tensor):
        raise TensorError(f"{name} is a {type(tensor).__name__}, not a tensor")
    if tensor.dtype not in DTYPES:
        raise TensorError(f"{name} is of type {tensor.dtype}, not a floating point number")
    if tensor.layout != torch.strided:
        raise TensorError(f"{name} is not dense", found=str(tensor.layout), hint="tensor.to_dense()")
    if tensor.numel() == 0:
        raise TensorError(f"{name} is empty, of shape {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise TensorError(
            f"{name} has {bad} of {tensor.numel()} values that are NaN or infinite",
            hint="train again with a lower learning rate; such tensors would spoil every merge",
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file. The same tensors give the same bytes, whether they share memory or not."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in plain.items():
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            plain[name] = tensor.clone()
        seen.add(address)
    save_file(plain, path, metadata={"format": "pt", **(metadata or {})})
    path.chmod(0o644)  # safetensors keeps others from reading; a zoo may be shared


class FileTensors(Mapping[str, "torch.Tensor"]):
    """Tensors of a safetensors file, mapped into memory when they are asked for; read-only to the file.

    A tensor is checked to be finite when it is first touched. Writing into one changes a private copy of the page,
    never the file.

    Args:
        path: Of the file.
        dtype: What they are cast to, or None for what is stored.
    Raises:
        TensorError: the file is not a safetensors file.
    """

    def __init__(self, path: Path, dtype: torch.dtype | None = None) -> None:
        self.path, self.dtype = path, dtype
        self._file = _open(path)
        self._names = list(self._file.keys())
        self._known = set(self._names)
        self._checked: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.stored(name)
        return tensor if self.dtype is None else tensor.to(self.dtype)

    def stored(self, name: str) -> torch.Tensor:
        """The tensor as it is stored, not cast."""
        if name not in self._known:
            raise KeyError(name)
        try:
            tensor: torch.Tensor = self._file.get_tensor(name)
        except (SafetensorError, TypeError, ValueError) as error:
            raise TensorError(f"{name} in {self.path} cannot be read", found=str(error)) from None
        if name not in self._checked:
            check_value(name, tensor)
            self._checked.add(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    @property
    def metadata(self) -> dict[str, str]:
        """Strings in the file's header."""
        return dict(self._file.metadata() or {})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, from the header: no tensor is read."""
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in self._names}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.dtype)  # a mapped file is opened again in the other process

    def __repr__(self) -> str:
        return f"FileTensors({self.path}, {len(self)} tensors)"


class RenamedTensors(Mapping[str, "torch.Tensor"]):
    """Tensors under other names, each made from the file's when it is asked for.

    Args:
        names: New name -> what makes its tensor.
    """

    def __init__(self, names: Mapping[str, Callable[[], torch.Tensor]]) -> None:
        self._names = dict(names)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._names[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"RenamedTensors({len(self)} tensors)"


def _open(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        # Parsed, a header takes many times its own size.
        if length > MAX_HEADER:
            raise SafetensorError(f"its header has {length:,} bytes, at most {MAX_HEADER:,} are read")
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise TensorError(f"{path} is not a safetensors file that can be read", found=str(error)) from None
