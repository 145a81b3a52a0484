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
from transfer.deltas.modules import features, linear_features
from transfer.deltas.norms import is_norm
from transfer.errors import ConfigError, DeltaError


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
        reads: "output" is Houlsby's, above. "sum" is Pfeiffer's (2021, aclanthology.org/2021.eacl-main.39) as
            AdapterHub has it: s + up(act(down(norm(s)))) on the sum s of output and residual. Its places are the
            normalisations behind the sums, as in BERT (`ff.norm`); where a model normalises before its sub-layers, as
            GPT-2 does, the modules that give the sums, and there is no norm: `h.0`.
    """

    method: ClassVar[str] = "adapter"
    learning_rate: ClassVar[float] = 3e-3
    prefix: ClassVar[str] = "adapter_"

    bottleneck: int = 8
    activation: str = "gelu_new"
    reads: str = "output"
    where: tuple[str, ...] = ("attn.proj", "ff.w2")

    def check(self) -> None:
        if self.bottleneck < 1:
            raise ConfigError(f"bottleneck must be at least 1, got {self.bottleneck}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"no activation named {self.activation!r}", found=", ".join(ACTIVATIONS))
        if self.reads not in ("output", "sum"):
            raise ConfigError(f"an adapter cannot read {self.reads!r}", found="output, sum")

    def settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        settings = super().settings(model)
        if self.reads == "output":  # on the card only where it is the other
            del settings["reads"]
        return settings

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = _sum_width(place, module) if self.reads == "sum" else linear_features(place, module, self.method)[1]
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
        at_norm = self.reads == "sum" and is_norm(model.get_submodule(place))
        return (NormSite if at_norm else AdapterSite)(place, tensors, self.activation)


def _sum_width(place: str, module: nn.Module) -> int:
    """Width of the sum that a normalisation is given, or that a block gives: that of its last linear layer."""
    weight = getattr(module, "weight", None)
    if is_norm(module) and isinstance(weight, torch.Tensor):
        return weight.shape[0]
    widths = [sizes[1] for layer in module.modules() if (sizes := features(layer)) is not None]
    if not widths or features(module) is not None:
        raise DeltaError(
            f"an adapter cannot read the sum at {place!r}",
            found=f"a {type(module).__name__}, which is no normalisation and no block of layers",
            hint="where=('ff.norm',), or 'block' on models that normalise before their sub-layers",
        )
    return widths[-1]


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
        changed = hidden + self.change(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def change(self, hidden: torch.Tensor) -> torch.Tensor:
        """up(act(down(hidden))). (..., width) to (..., width)."""
        down, down_bias = self.adapter_down.weight, self.adapter_down.bias
        up, up_bias = self.adapter_up.weight, self.adapter_up.bias
        x = own_precision(hidden, down)
        narrow = ACTIVATIONS[self.activation](functional.linear(x, down, down_bias))
        return functional.linear(narrow, up, up_bias).to(hidden.dtype)


class NormSite(AdapterSite):
    """The bottleneck before a normalisation: it reads what that would give, and changes what it is given."""

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_pre_hook(self.before)]

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook. The first argument is (..., width)."""
        # Past the hooks: this one, and those of others on the same normalisation.
        changed = args[0] + self.change(module.forward(args[0])).to(args[0].dtype)
        return (changed, *args[1:])
