"""Prefixes in mixed batches: each row sees its own keys and values; what is longer than its own is hidden from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from transfer.deltas.common_structure import head_sizes
from transfer.deltas.method import DeltaMethod
from transfer.deltas.mixed import MixedSite, Piece, Router
from transfer.deltas.mixed_sites import stacks_of
from transfer.deltas.modules import named_modules
from transfer.deltas.prefix_interface import ImplementationSwitch, InterfacePrefixSite, uses_interface
from transfer.deltas.prefix_positions import PositionShift
from transfer.deltas.prefix_rows import RowsPrefixSite
from transfer.deltas.prefix_site import PrefixSite
from transfer.deltas.site import Site


class PrefixRows(MixedSite):
    """Builds the sites; which of the two kinds depends on the attention."""

    @classmethod
    def build(cls, place: str, pieces: Sequence[Piece | None], router: Router, model: nn.Module) -> Site:
        module = named_modules(model)[place]
        kind = InterfaceRows if uses_interface(module) else OwnRows
        # Each prefix ends where the text begins: some attentions count how far it is from there.
        stacks = stacks_of(place, pieces, ("prefix_key", "prefix_value"), in_front=True)
        site = kind(place, stacks, head_sizes(module))
        return site.routed([0 if piece is None else len(piece.tensors["prefix_key"]) for piece in pieces], router)

    @classmethod
    def helpers(cls, methods: Sequence[DeltaMethod | None], router: Router, model: nn.Module) -> list[Site]:
        own = [[] if method is None else method.helpers(model) for method in methods]
        shifts = [{site.place: site.length for site in sites if isinstance(site, PositionShift)} for sites in own]
        places = dict.fromkeys(place for found in shifts for place in found)
        helpers: list[Site] = [ShiftRows(place, [found.get(place, 0) for found in shifts], router) for place in places]
        if any(isinstance(site, ImplementationSwitch) for sites in own for site in sites):
            helpers.append(ImplementationSwitch(""))
        return helpers


class _Rows(PrefixSite):
    """Keys and values (1 + deltas, length, heads * head_width), of which each row has its own."""

    router: Router
    lengths: torch.Tensor

    def routed(self, lengths: Sequence[int], router: Router) -> _Rows:
        """Told by whom the rows are picked, and how long each delta's prefix is."""
        self.requires_grad_(False)
        self.router = router
        self.register_buffer("lengths", torch.tensor([0, *lengths]), persistent=False)
        return self

    @property
    def length(self) -> int:
        return self.prefix_key.shape[1]

    def rows_of(self, name: str, batch: int) -> torch.Tensor:
        stack = self.get_parameter(name)
        return stack.index_select(0, self.router.of(batch, stack.device))

    def seen(self, batch: int, device: torch.device) -> torch.Tensor:
        own = self.lengths.index_select(0, self.router.of(batch, self.lengths.device))
        return (torch.arange(self.length, device=own.device) >= self.length - own[:, None]).to(device)


class InterfaceRows(_Rows, InterfacePrefixSite):
    """At an attention that uses the interface of transformers."""


class OwnRows(_Rows, RowsPrefixSite):
    """At an attention that runs on more rows."""


class ShiftRows(PositionShift):
    """Adds the length of its own prefix to the position ids of each row."""

    lengths: torch.Tensor

    def __init__(self, place: str, lengths: Sequence[int], router: Router) -> None:
        super().__init__(place, max(lengths))
        self.router = router
        self.register_buffer("lengths", torch.tensor([0, *lengths]), persistent=False)

    def longest(self, ids: torch.Tensor) -> int:
        return int(self._own(ids).max())

    def add(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (batch, text), or (1, text) or (text,) for all rows alike: (batch, text)."""
        return ids + self._own(ids)[:, None].to(ids)

    def _own(self, ids: torch.Tensor) -> torch.Tensor:
        """(batch,) the shift of each row."""
        rows = self.router.rows
        alike = ids.dim() < 2 or ids.shape[0] == 1
        batch = rows.shape[0] if alike and rows is not None else ids.shape[0]
        return self.lengths.index_select(0, self.router.of(batch, self.lengths.device))
