"""BitFit: learned changes of biases.

Source: Ben Zaken et al. 2022, aclanthology.org/2022.acl-short.1, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from transfer.deltas.addressing import Parts, find_parts
from transfer.deltas.common_structure import structure
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import features, inner_model, refuse_uncalled
from transfer.deltas.site import Site
from transfer.errors import DeltaError

# Without `attn.k`: a change of all keys by the same vector shifts all scores of a query alike, which softmax ignores,
# unless positions are rotated in between.
BIASES = tuple(
    f"{kind}.{part}"
    for kind, parts in (
        ("attn", ("q", "v", "proj", "norm")),
        ("crossattn", ("q", "v", "proj", "norm")),
        ("ff", ("w1", "w2", "w3", "norm")),
    )
    for part in parts
)
# Norms of torch whose weight does not lie along the last dimension of their output.
_CHANNELS_FIRST = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class BitFit(DeltaMethod):
    """y + b on the output y of linear layers and layer norms; b is the difference from the bias that is there, or none.

    Starts as the bare backbone: b is zero. So the tensors of several modules can be averaged and compared.

    Args:
        where: By default all attentions and feed-forward parts with their norms; what a model has none of is passed
            over. `attn.k` is not among them: without rotary positions the bias of a key changes nothing.
    """

    method: ClassVar[str] = "bitfit"
    learning_rate: ClassVar[float] = 3e-3
    prefix: ClassVar[str] = "bitfit_"
    by_output: ClassVar[tuple[str, ...]] = ("bitfit_bias",)

    where: tuple[str, ...] = BIASES

    def check(self) -> None:
        """Places are all there is to choose."""

    def found(self, model: nn.Module) -> Parts:
        if self.where != BIASES:
            return super().found(model)
        common = structure(model)
        known = [name for name in self.where if name in common]
        if not known:
            raise DeltaError(
                f"{type(inner_model(model)).__name__} has no attention or feed-forward part that is known as one",
                hint="name its layers by the ends of their names: BitFit(where=('fc1', 'fc2'))",
            )
        return find_parts(model, known, self.exclude)

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        return {"bitfit_bias": (_bias_width(place, module),)}

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        """Zero, as it is already: no difference from the bias of the backbone."""

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return BiasSite(place, tensors)


class BiasSite(Site):
    """What is added to the output of one layer."""

    bitfit_bias: nn.Parameter

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add)]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook. Output (..., width)."""
        return output + self.bitfit_bias.to(output.dtype)

    def changes(self, module: nn.Module) -> dict[str, torch.Tensor]:
        return {"bias": self.bitfit_bias}


def _bias_width(place: str, module: nn.Module) -> int:
    """Width of a bias at `place`.

    Raises:
        DeltaError: the module there cannot take one.
    """
    refuse_uncalled(place, module, "bitfit")
    sizes = features(module)
    if sizes is not None:
        return sizes[1]
    weight = module._parameters.get("weight")
    is_norm = "norm" in type(module).__name__.lower() and not isinstance(module, _CHANNELS_FIRST)
    if is_norm and weight is not None and weight.dim() == 1:
        return weight.shape[0]
    raise DeltaError(
        f"bitfit cannot be put on {place!r}",
        found=f"a {type(module).__name__}, which is no linear layer and no norm over its last dimension",
        hint="name linear layers or layer norms in where=, for example 'attn.q' or 'ff.w2'",
    )
