"""What the bottleneck methods share: down to a few values, an activation, up again, added to an output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from transfer.deltas.method import DeltaMethod
from transfer.deltas.site import Holder, Site, own_precision
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

HOULSBY = ("attn.proj", "ff.w2")
PFEIFFER = ("ff.w2",)


@dataclass(frozen=True, kw_only=True)
class BottleneckMethod(DeltaMethod):
    """h + up(act(down(x))), where h is the output of a linear layer; what `down` and `up` are made of is the method's.

    Args:
        activation: One of gelu, gelu_new, relu, silu, swish, tanh.
        where: By default, as "houlsby", after the attention and after the feed-forward part (Houlsby et al. 2019);
            "pfeiffer" is after the feed-forward part alone (Pfeiffer et al. 2021, aclanthology.org/2021.eacl-main.39).
    """

    learning_rate: ClassVar[float] = 3e-3
    presets: ClassVar[Mapping[str, tuple[str, ...]]] = {"houlsby": HOULSBY, "pfeiffer": PFEIFFER}

    activation: str = "gelu_new"
    where: tuple[str, ...] = HOULSBY

    def check(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"no activation named {self.activation!r}", found=", ".join(ACTIVATIONS))

    def at_least_one(self, *names: str) -> None:
        """ConfigError unless each of these settings is at least 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


class Factors(Holder):
    """Holds what is called `<name>.left`, `<name>.right` and `<name>.bias`."""

    left: nn.Parameter
    right: nn.Parameter


class BottleneckSite(Site):
    """The bottleneck at one linear layer; x is the layer's own output unless `read` says otherwise."""

    def __init__(self, place: str, tensors: Mapping[str, torch.Tensor], activation: str) -> None:
        super().__init__(place, tensors)
        self.activation = activation

    @abstractmethod
    def down(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., bottleneck)."""

    @abstractmethod
    def up(self, narrow: torch.Tensor) -> torch.Tensor:
        """(..., bottleneck) to (..., out)."""

    def read(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the bottleneck reads, where the layer's output is `hidden`."""
        return hidden

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add)]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook. The output is (..., out), or a tuple whose first item is."""
        hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
        changed = hidden + self.change(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def change(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the bottleneck gives where the layer's output is `hidden`: (..., out)."""
        x = own_precision(self.read(hidden), next(self.parameters()))
        return self.up(ACTIVATIONS[self.activation](self.down(x))).to(hidden.dtype)
