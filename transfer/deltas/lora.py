"""LoRA: a product of two narrow matrices beside a linear layer or an embedding.

Source: Hu et al. 2021, arxiv.org/abs/2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from transfer.deltas.addressing import find_places
from transfer.deltas.attached import Attached
from transfer.deltas.method import DeltaMethod, generator_for
from transfer.deltas.modules import (
    embedding_features,
    embedding_scale,
    is_conv1d,
    linear_features,
    named_modules,
)
from transfer.deltas.site import Site, own_precision
from transfer.errors import ConfigError, DeltaError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class LoRA(DeltaMethod):
    """y = W x + alpha / rank * B A x; A is (rank, in), B is (out, rank). Starts as the bare backbone: B is zero.

    On an embedding x is the one-hot row of an id, so A has a column for each id; there A is zero at the start and B
    random, as PEFT has it, and nothing is dropped.

    Args:
        rank: Columns of B, at least 1.
        alpha: Scale, over the rank.
        dropout: Share of the input dropped while training, in [0, 1).
        where: By default queries and values. Where they are outputs of a fused layer, as in GPT-2, only the rows of B
            that make them are trained, and the others stay as they are; where it is not known which those are,
            the default trains them all, and to ask for `attn.q` by name is refused.
        ranks: Name -> rank where it differs from `rank`; names as in `where`, such as `attn.q[0:3]` or `ff.w2`. Of
            several that mean a place, the place itself goes first, then the longest. A card lists exact places.
        alphas: Name -> alpha where it differs from `alpha`, read in the same way.
    """

    method: ClassVar[str] = "lora"
    learning_rate: ClassVar[float] = 2e-3
    prefix: ClassVar[str] = "lora_"
    by_output: ClassVar[tuple[str, ...]] = ("lora_B",)
    derived: ClassVar[tuple[str, ...]] = ("embeddings",)

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    where: tuple[str, ...] = ("attn.q", "attn.v")
    ranks: Mapping[str, int] = field(default_factory=dict, hash=False)
    alphas: Mapping[str, float] = field(default_factory=dict, hash=False)

    def check(self) -> None:
        for rank in (self.rank, *self.ranks.values()):
            if rank < 1:
                raise ConfigError(f"rank must be at least 1, got {rank}")
        for alpha in (self.alpha, *self.alphas.values()):
            if not -math.inf < alpha < math.inf:
                raise ConfigError(f"alpha must be a finite number, got {alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")

    def rank_at(self, place: str) -> int:
        """Rank at an exact place."""
        return self.ranks.get(place, self.rank)

    def scale(self, place: str) -> float:
        """alpha / rank at an exact place: the delta of its weight is `scale * B @ A`."""
        return self.alphas.get(place, self.alpha) / self.rank_at(place)

    def factors(self, place: str, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """(A (rank, in), B (out, rank)) in fp32, whose product B A is the change of the weight at the place.

        Args:
            place: One of the places.
            tensors: The delta, by canonical name.
        """
        return tensors[f"{place}.lora_A"].float(), tensors[f"{place}.lora_B"].float() * self.scale(place)

    def on(self, model: nn.Module) -> Self:
        """The same method with the ranks and alphas of exact places.

        Raises:
            DeltaError: a name in `ranks` or `alphas` means no place that the method goes on.
        """
        if not self.ranks and not self.alphas:
            return self
        places = self.places(model)
        return replace(self, ranks=_by_place(model, places, self.ranks), alphas=_by_place(model, places, self.alphas))

    def fixed(self, model: nn.Module) -> Self:
        return super(LoRA, self.on(model)).fixed(model)

    def shapes_by_place(self, model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
        return super(LoRA, self.on(model)).shapes_by_place(model)

    def attach(self, model: nn.Module, tensors: Mapping[str, torch.Tensor] | None = None, seed: int = 0) -> Attached:
        return super(LoRA, self.on(model)).attach(model, tensors, seed)

    def settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        settings = super(LoRA, self if model is None else self.on(model)).settings(model)
        for name in ("ranks", "alphas"):  # exceptions are on the card only where there are any
            settings[name] = dict(settings[name])
            if not settings[name]:
                del settings[name]
        if model is not None and (embeddings := _embeddings(model, settings["places"])):
            settings["embeddings"] = embeddings
        return settings

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        n_in, n_out = embedding_features(module) or linear_features(place, module, self.method)
        rank = self.rank_at(place)
        return {"lora_A": (rank, n_in), "lora_B": (n_out, rank)}

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        if name == "lora_A":  # Kaiming's uniform with a = sqrt(5), as PEFT draws it: the bound is 1 / sqrt(in)
            bound = 1 / math.sqrt(tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)

    def draw(self, model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
        start = super().draw(model, seed)
        places = [name.removesuffix(".lora_A") for name in start if name.endswith(".lora_A")]
        for place in _embeddings(model, places):
            start[f"{place}.lora_A"].zero_()
            name = f"{place}.lora_B"
            start[name] = start[name].normal_(generator=generator_for(seed, name)).half().float()
        return start

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return LoRASite(place, tensors, self.scale(place), self.dropout)


class LoRASite(Site):
    """A and B beside one linear layer or embedding."""

    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def __init__(self, place: str, tensors: Mapping[str, torch.Tensor], scale: float, dropout: float) -> None:
        super().__init__(place, tensors)
        self.scale, self.dropout = scale, dropout

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add, with_kwargs=True)]

    def add(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        """Forward hook. Input (..., in), or (...) ids of an embedding; output (..., out)."""
        x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        if embedding_features(module) is not None:
            narrow = functional.embedding(x, self.lora_A.T) * (self.strength() * embedding_scale(module))
            return output + functional.linear(narrow, self.lora_B).to(output.dtype)
        x = own_precision(x, self.lora_A)
        if self.dropout:
            x = functional.dropout(x, self.dropout, self.training)
        # The scale is applied on the narrow side, where it costs least.
        narrow = functional.linear(x, self.lora_A) * self.strength()
        return output + functional.linear(narrow, self.lora_B).to(output.dtype)

    def strength(self) -> float | torch.Tensor:
        """What a rank's part counts: a number for all of them, or a tensor (rank,)."""
        return self.scale

    def changes(self, module: nn.Module) -> dict[str, torch.Tensor]:
        change = self.lora_B * self.strength() @ self.lora_A
        turned = is_conv1d(module) or embedding_features(module) is not None
        return {"weight": change.T if turned else change}


def _by_place(model: nn.Module, places: Sequence[str], given: Mapping[str, Number]) -> dict[str, Number]:
    """Exact place -> value; a longer name overrules a shorter one, the place itself all others."""
    found: dict[str, Number] = {}
    for name in sorted(given, key=lambda name: (name in places, len(name))):
        meant = [name] if name in places else [place for place in find_places(model, (name,)) if place in places]
        if not meant:
            raise DeltaError(
                f"ranks and alphas name {name!r}, where this delta does not go",
                found=f"{len(places)} places, such as {places[0]}",
                hint="name one of its places, or put it into where=",
            )
        found |= dict.fromkeys(meant, given[name])
    return {place: found[place] for place in places if place in found}


def _embeddings(model: nn.Module, places: Iterable[str]) -> list[str]:
    """Those of the places that are embeddings."""
    modules = named_modules(model)
    return [place for place in places if embedding_features(modules[place]) is not None]
