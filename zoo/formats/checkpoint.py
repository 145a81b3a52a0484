"""What reading a checkpoint folder gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Method, settings and tensors of a folder; unpacks into these three.

    Args:
        method: "lora", "prefix", ...
        settings: What the method needs to be built again, places included.
        tensors: Canonical name -> tensor, mapped lazily.
        backbone: Name of the backbone as the folder has it, or "".
        stripped: What was taken off the front of every place ("bert."), or put there ("+model."); "" if nothing.
        dropped: Names of tensors that are no part of the delta and were left out: task heads, mostly.
        notes: One line for the user for each thing that was read differently from what stands there.
    """

    method: str
    settings: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]
    backbone: str = ""
    stripped: str = ""
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.method, self.settings, self.tensors))
