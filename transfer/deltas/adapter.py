"""Adapter: a bottleneck after a sub-layer.

Source: Houlsby et al. 2019, arxiv.org/abs/1902.00751, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from transfer.deltas.attached import Holder, Site, own_precision
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import linear_features
from transfer.errors import ConfigError


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    """GELU by tanh, as GPT-2 and OpenDelta have it."""
    return functional.gelu(x, approximate="tanh")


# Functions at the top of a file pickle by name; lambdas would not.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": gelu_new,
    "relu": functional.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, kw_only=True)
class Adapter(DeltaMethod):
    """h + up(act(down(h))) on the output h of a linear layer, before the residual is added.

    Starts as the bare backbone: `up` and the biases are zero. `down` is drawn as wide as LoRA's A, not with the
    paper's deviation of 0.01: with `up` at zero it is what carries the first gradients.

    Args:
        bottleneck: Width of the narrow layer, at least 1.
        activation: One of gelu, gelu_new, relu, silu, swish, tanh.
    """

    method: ClassVar[str] = "adapter"
    learning_rate: ClassVar[float] = 3e-3
    prefix: ClassVar[str] = "adapter_"

    bottleneck: int = 8
    activation: str = "gelu_new"
    where: tuple[str, ...] = ("attn.proj", "ff.w2")

    def check(self) -> None:
        if self.bottleneck < 1:
            raise ConfigError(f"bottleneck must be at least 1, got {self.bottleneck}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"no activation named {self.activation!r}", found=", ".join(ACTIVATIONS))

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = linear_features(place, module, self.method)[1]
        return {
            "adapter_down.weight": (self.bottleneck, width),
            "adapter_down.bias": (self.bottleneck,),
            "adapter_up.weight": (width, self.bottleneck),
            "adapter_up.bias": (width,),
        }

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        if name == "adapter_down.weight":
            bound = 1 / math.sqrt(tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return AdapterSite(place, tensors, self.activation)


class AdapterSite(Site):
    """The bottleneck after one linear layer."""

    adapter_down: Holder
    adapter_up: Holder

    def __init__(self, place: str, tensors: Mapping[str, torch.Tensor], activation: str) -> None:
        super().__init__(place, tensors)
        self.activation = activation

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add)]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook. The output is (..., width), or a tuple whose first item is."""
        hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
        down, down_bias = self.adapter_down.weight, self.adapter_down.bias
        up, up_bias = self.adapter_up.weight, self.adapter_up.bias
        x = own_precision(hidden, down)
        narrow = ACTIVATIONS[self.activation](functional.linear(x, down, down_bias))
        changed = hidden + functional.linear(narrow, up, up_bias).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed
