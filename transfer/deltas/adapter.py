"""Adapter: a bottleneck after a sub-layer.

Source: Houlsby et al. 2019, arxiv.org/abs/1902.00751, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from transfer.deltas.bottleneck import ACTIVATIONS, BottleneckMethod, BottleneckSite
from transfer.deltas.modules import features, linear_features
from transfer.deltas.norms import is_norm
from transfer.deltas.site import Holder, Site
from transfer.errors import ConfigError, DeltaError

__all__ = ["ACTIVATIONS", "Adapter", "AdapterSite", "adapter_shapes", "fill_adapter"]


@dataclass(frozen=True, kw_only=True)
class Adapter(BottleneckMethod):
    """h + up(act(down(h))) on the output h of a linear layer, before the residual is added.

    Starts as the bare backbone: `up` and the biases are zero. `down` is drawn as wide as LoRA's A, not with the
    paper's deviation of 0.01: with `up` at zero it is what carries the first gradients.

    Args:
        bottleneck: Width of the narrow layer, at least 1.
        reads: "output" is Houlsby's, above. "sum" is Pfeiffer's (2021, aclanthology.org/2021.eacl-main.39) as
            AdapterHub has it: s + up(act(down(norm(s)))) on the sum s of output and residual. Its places are the
            normalisations behind the sums, as in BERT (`ff.norm`); where a model normalises before its sub-layers, as
            GPT-2 does, the modules that give the sums, and there is no norm: `h.0`.
    """

    method: ClassVar[str] = "adapter"
    prefix: ClassVar[str] = "adapter_"

    bottleneck: int = 8
    reads: str = "output"

    def check(self) -> None:
        super().check()
        self.at_least_one("bottleneck")
        if self.reads not in ("output", "sum"):
            raise ConfigError(f"an adapter cannot read {self.reads!r}", found="output, sum")

    def settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        settings = super().settings(model)
        if self.reads == "output":  # on the card only where it is the other
            del settings["reads"]
        return settings

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = _sum_width(place, module) if self.reads == "sum" else linear_features(place, module, self.method)[1]
        return adapter_shapes(width, self.bottleneck, width)

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        fill_adapter(name, tensor, generator)

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


class NormSite(AdapterSite):
    """The bottleneck before a normalisation: it reads what that would give, and changes what it is given."""

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_pre_hook(self.before)]

    def passes_by(self, place: str) -> bool:
        return place == self.place

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Forward pre-hook. The first argument is (..., width)."""
        # Past the hooks: this one, and those of others on the same normalisation.
        changed = args[0] + self.change(module.forward(args[0])).to(args[0].dtype)
        return (changed, *args[1:])
