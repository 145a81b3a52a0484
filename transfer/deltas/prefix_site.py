"""The keys and values of a prefix at one place, whichever way they get into the attention."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from transfer.deltas.queues import join_queue, leave_queue, queue_of
from transfer.deltas.site import Site

SITES = "_prefix_sites"  # attribute of an attention module


def hide(mask: torch.Tensor | None, seen: torch.Tensor, keys: int, dtype: torch.dtype) -> torch.Tensor:
    """The mask with those of its first keys hidden that a row does not see.

    Args:
        mask: (batch or 1, 1, queries or 1, keys), boolean or additive, all of the first keys in sight; None is all.
        seen: (batch, length), True where the row sees one of the first `length` keys.
        keys: All of them.
        dtype: Of what is attended with; None becomes an additive mask of it.
    """
    hidden = functional.pad(~seen, (0, keys - seen.shape[1]), value=False)[:, None, None, :]
    if mask is None:
        mask = torch.zeros((1, 1, 1, keys), dtype=dtype, device=seen.device)
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return torch.where(hidden, torch.finfo(mask.dtype).min, mask)


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

    @property
    def length(self) -> int:
        """Number of keys and values."""
        return self.prefix_key.shape[0]

    def rows_of(self, name: str, batch: int) -> torch.Tensor:
        """Keys or values for each row of a batch: (batch, length, heads * head_width)."""
        return self._folded(name).expand(batch, -1, -1)

    def seen(self, batch: int, device: torch.device) -> torch.Tensor | None:
        """(batch, length), True where a row sees the prefix; None where every row sees all of it."""
        return None

    def keys_and_values(self, batch: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two tensors (batch, heads, length, head_width), in the dtype and on the device of `like`."""
        key, value = (self.rows_of(name, batch).to(like) for name in ("prefix_key", "prefix_value"))
        return self._by_head(key), self._by_head(value)

    def _by_head(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)

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
