"""Prefix: learned keys and values in front of those of the text.

Each place holds its keys and values directly, as (length, kv_heads * head_width).
Source: Li and Liang 2021, aclanthology.org/2021.acl-long.353, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from transfer.deltas.common_structure import head_sizes, is_attention
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import named_modules
from transfer.deltas.prefix_interface import ImplementationSwitch, InterfacePrefixSite, uses_interface
from transfer.deltas.prefix_positions import PositionShift, position_modules
from transfer.deltas.prefix_rows import RowsPrefixSite, kind_of
from transfer.deltas.site import Site
from transfer.errors import ConfigError, DeltaError

STANDARD_DEVIATION = 0.02  # of the start, keys and values alike


@dataclass(frozen=True, kw_only=True)
class Prefix(DeltaMethod):
    """`length` learned keys and values in each self-attention, seen by every token.

    Args:
        length: Number of learned keys and values, at least 1.
        position_shift: Give the text the positions from `length` on, as PEFT does, whose prefix sits in the cache.
            It acts on models with learned or rotary positions that are no encoder-decoders; on others, and on the
            card of a module trained on them, it is False.
        reparameterisation: Hidden size of a residual MLP that keys and values pass through while training
            (Razdaibiedina et al. 2023, aclanthology.org/2023.findings-acl.421, section 3.1), or None to train
            them directly. The MLP starts at zero, so training can begin from any tensors; what is stored is its
            output, so a module looks the same with and without.
    """

    method: ClassVar[str] = "prefix"
    learning_rate: ClassVar[float] = 3e-2
    prefix: ClassVar[str] = "prefix_"
    starts_bare: ClassVar[bool] = False
    derived: ClassVar[tuple[str, ...]] = ("heads", "head_width")

    length: int = 16
    position_shift: bool = True
    reparameterisation: int | None = None
    where: tuple[str, ...] = ("attn",)

    def check(self) -> None:
        if self.length < 1:
            raise ConfigError(f"length must be at least 1, got {self.length}")
        if self.reparameterisation is not None and self.reparameterisation < 1:
            raise ConfigError(f"reparameterisation must be at least 1 or None, got {self.reparameterisation}")

    def settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        settings = super().settings(model)
        if model is not None:
            modules = named_modules(model)
            heads, head_width = head_sizes(modules[settings["places"][0]])
            shift = bool(self._shifted(model))
            settings |= {"heads": heads, "head_width": head_width, "position_shift": shift}
        return settings

    def direct(self) -> DeltaMethod:
        return self if self.reparameterisation is None else replace(self, reparameterisation=None)

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        if not is_attention(module):
            raise DeltaError(
                f"a prefix cannot be put on {place!r}",
                found=f"a {type(module).__name__}, which is no attention with query, key and value",
                hint="where=('attn',) means every self-attention",
            )
        if not uses_interface(module) and kind_of(module) is None:
            raise DeltaError(
                f"a prefix cannot be put on {place!r}",
                found=f"{type(module).__name__} computes its attention by itself, where no prefix can be added",
                hint="use LoRA() or Adapter() on this model",
            )
        heads, head_width = head_sizes(module)
        shape = (self.length, heads * head_width)
        return {"prefix_key": shape, "prefix_value": shape}

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        tensor.normal_(0, STANDARD_DEVIATION, generator=generator)

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        module = named_modules(model)[place]
        kind = InterfacePrefixSite if uses_interface(module) else RowsPrefixSite
        return kind(place, tensors, head_sizes(module), self.reparameterisation)

    def helpers(self, model: nn.Module) -> list[Site]:
        modules = named_modules(model)
        helpers: list[Site] = [PositionShift(name, self.length) for name in self._shifted(model)]
        if any(uses_interface(modules[place]) for place in self.places(model)):
            helpers.append(ImplementationSwitch(""))
        return helpers

    def _shifted(self, model: nn.Module) -> list[str]:
        """Modules whose positions are shifted: none on encoder-decoders and on attention off the interface."""
        modules = named_modules(model)
        # Not the outermost alone: what a model is wrapped in has no config.
        configs = (getattr(module, "config", None) for module in modules.values())
        if not self.position_shift or any(getattr(config, "is_encoder_decoder", False) for config in configs):
            return []
        if not all(uses_interface(modules[place]) for place in self.places(model)):
            return []
        return position_modules(model)
