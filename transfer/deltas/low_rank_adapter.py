"""Low-rank adapter: an adapter whose two matrices are products of narrow ones.

Source: OpenDelta (github.com/thunlp/OpenDelta), whose product is taken element by element and so allows only rank 1;
here it is a matrix product, of any rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from transfer.deltas.bottleneck import BottleneckMethod, BottleneckSite, Factors
from transfer.deltas.modules import linear_features
from transfer.deltas.site import Site


@dataclass(frozen=True, kw_only=True)
class LowRankAdapter(BottleneckMethod):
    """h + up(act(down(h))) as an adapter has it, each weight the product left @ right of `rank` columns and rows.

    Starts as the bare backbone: `left` of `up` and the biases are zero.

    Args:
        reduction: The bottleneck is the layer's width over this, at least 1 wide.
        rank: Of both weights, at least 1.
    """

    method: ClassVar[str] = "low-rank-adapter"
    prefix: ClassVar[str] = "low_rank_"

    reduction: int = 32
    rank: int = 1

    def check(self) -> None:
        super().check()
        self.at_least_one("reduction", "rank")

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = linear_features(place, module, self.method)[1]
        narrow = max(1, width // self.reduction)
        return {
            "low_rank_down.left": (narrow, self.rank),
            "low_rank_down.right": (self.rank, width),
            "low_rank_down.bias": (narrow,),
            "low_rank_up.left": (width, self.rank),
            "low_rank_up.right": (self.rank, narrow),
            "low_rank_up.bias": (width,),
        }

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        if name.endswith(".right"):  # as LoRA's A
            bound = 1 / math.sqrt(tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)
        elif name == "low_rank_down.left":  # the product is then as wide as `right` alone
            tensor.normal_(std=1 / math.sqrt(tensor.shape[1]), generator=generator)

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return LowRankAdapterSite(place, tensors, self.activation)


class LowRankAdapterSite(BottleneckSite):
    """Two products of narrow matrices after a linear layer. A product is never formed: right first, then left."""

    low_rank_down: Factors
    low_rank_up: Factors

    def down(self, x: torch.Tensor) -> torch.Tensor:
        part = self.low_rank_down
        return functional.linear(functional.linear(x, part.right), part.left, part.bias)

    def up(self, narrow: torch.Tensor) -> torch.Tensor:
        part = self.low_rank_up
        return functional.linear(functional.linear(narrow, part.right), part.left, part.bias)
