"""The keys and values of a prefix at one place, whichever way they get into the attention."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from transfer.deltas.attached import Site
from transfer.deltas.queues import join_queue, leave_queue, queue_of

SITES = "_prefix_sites"  # attribute of an attention module


def sites_of(module: nn.Module) -> list[PrefixSite]:
    """The prefixes at an attention module, in the order they were attached; the first stands in front."""
    return queue_of(module, SITES)


class PrefixSite(Site):
    """Keys and values, each (length, heads * head_width), trained directly or through a residual MLP.

    Args:
        place: Name of the attention module.
        tensors: `prefix_key` and `prefix_value`.
        sizes: (key-value heads, width of a head).
        hidden: Hidden size of the MLP, or None.
    """

    prefix_key: nn.Parameter
    prefix_value: nn.Parameter
    used = False  # True from when the attention takes the keys and values to the end of its forward

    def __init__(
        self, place: str, tensors: Mapping[str, torch.Tensor], sizes: tuple[int, int], hidden: int | None = None
    ) -> None:
        super().__init__(place, tensors)
        self.heads, self.head_width = sizes
        self.hidden = hidden
        if hidden is not None:
            for name in ("prefix_key", "prefix_value"):
                down, up = self._drawn(name, hidden)
                self.register_parameter(f"{name}_down", nn.Parameter(down))
                self.register_parameter(f"{name}_up", nn.Parameter(up))

    def register(self, module: nn.Module) -> None:
        """Put this site last in the module's list of prefixes."""
        join_queue(module, SITES, self)

    def uninstall(self, module: nn.Module) -> None:
        leave_queue(module, SITES, self)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"prefix_key": self._folded("prefix_key"), "prefix_value": self._folded("prefix_value")}

    @torch.no_grad()
    def load(self, name: str, tensor: torch.Tensor) -> None:
        super().load(name, tensor)
        if self.hidden is not None:
            self.get_parameter(f"{name}_up").zero_()  # the MLP adds nothing, so what was loaded is what acts

    def keys_and_values(self, batch: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tensors (batch, heads, length, head_width), in the dtype and on the device of `like`."""
        key, value = (self._folded(name).to(like) for name in ("prefix_key", "prefix_value"))
        return self._by_head(key, batch), self._by_head(value, batch)

    def _by_head(self, tensor: torch.Tensor, batch: int) -> torch.Tensor:
        return tensor.view(-1, self.heads, self.head_width).transpose(0, 1).expand(batch, -1, -1, -1)

    def _folded(self, name: str) -> torch.Tensor:
        direct = self.get_parameter(name)
        if self.hidden is None:
            return direct
        narrow = torch.tanh(functional.linear(direct, self.get_parameter(f"{name}_down")))
        return direct + functional.linear(narrow, self.get_parameter(f"{name}_up"))

    def _drawn(self, name: str, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
        width = self.heads * self.head_width
        digest = hashlib.sha256(f"{self.place}.{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        # Keys and values have a deviation of 0.02 at the start; the MLP's input is brought near 1 from there.
        bound = math.sqrt(3 / width) / 0.02
        return torch.empty(hidden, width).uniform_(-bound, bound, generator=generator), torch.zeros(width, hidden)
