"""Adapter: a bottleneck after a sub-layer.

Source: Houlsby et al. 2019, arxiv.org/abs/1902.00751, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from transfer.deltas.attached import Holder, Site
from transfer.deltas.bottleneck import ACTIVATIONS, BottleneckMethod, BottleneckSite
from transfer.deltas.modules import linear_features

__all__ = ["ACTIVATIONS", "Adapter", "AdapterSite", "adapter_shapes", "fill_adapter"]


@dataclass(frozen=True, kw_only=True)
class Adapter(BottleneckMethod):
    """h + up(act(down(h))) on the output h of a linear layer, before the residual is added.

    Starts as the bare backbone: `up` and the biases are zero. `down` is drawn as wide as LoRA's A, not with the
    paper's deviation of 0.01: with `up` at zero it is what carries the first gradients.

    Args:
        bottleneck: Width of the narrow layer, at least 1.
    """

    method: ClassVar[str] = "adapter"
    prefix: ClassVar[str] = "adapter_"

    bottleneck: int = 8

    def check(self) -> None:
        super().check()
        self.at_least_one("bottleneck")

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = linear_features(place, module, self.method)[1]
        return adapter_shapes(width, self.bottleneck, width)

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        fill_adapter(name, tensor, generator)

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return AdapterSite(place, tensors, self.activation)


def adapter_shapes(n_in: int, bottleneck: int, n_out: int) -> dict[str, tuple[int, ...]]:
    """Local tensor name -> shape of a bottleneck of two linear layers."""
    return {
        "adapter_down.weight": (bottleneck, n_in),
        "adapter_down.bias": (bottleneck,),
        "adapter_up.weight": (n_out, bottleneck),
        "adapter_up.bias": (n_out,),
    }


def fill_adapter(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Draw `down`, and leave the rest at zero: the backbone answers as without."""
    if name == "adapter_down.weight":
        bound = 1 / math.sqrt(tensor.shape[1])
        tensor.uniform_(-bound, bound, generator=generator)


class AdapterSite(BottleneckSite):
    """Two linear layers after another one."""

    adapter_down: Holder
    adapter_up: Holder

    def down(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.adapter_down.weight, self.adapter_down.bias)

    def up(self, narrow: torch.Tensor) -> torch.Tensor:
        return functional.linear(narrow, self.adapter_up.weight, self.adapter_up.bias)
