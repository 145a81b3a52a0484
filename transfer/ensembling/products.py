"""What the rules share that take LoRA as a change of weights, scale * B A: reading factors, checks, the result."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.deltas.lora import LoRA
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.compatible import acting_settings, differ
from transfer.ensembling.factoring import Factors
from transfer.ensembling.rule import MergeRule
from transfer.ensembling.streaming import MOST_OPEN
from transfer.errors import DeltaError
from transfer.similarity.sources import places_of
from transfer.similarity.switching import method_of
from zoo import Module

# Settings that products account for.
SCALING = frozenset({"rank", "alpha", "ranks", "alphas", "places", "parts", "embeddings"})


class Factor(NamedTuple):
    """One module at one place: its change there is the product b a."""

    module: str
    weight: float
    a: Tensor  # (rank, in), fp32
    b: Tensor  # (out, rank), fp32, the scale in it


class Products:
    """LoRA modules, read place by place.

    Args:
        modules: Sorted by id; of any ranks, scales and places, of one backbone.
        weights: Of each.
    Raises:
        DeltaError: a module is of another backbone, or its change is not scale * B A alone; names it.
    """

    def __init__(self, modules: Sequence[Module], weights: Weights) -> None:
        first = modules[0]
        plain = LoRA().settings()
        self.modules, self.weights = modules, weights
        self.methods: dict[str, LoRA] = {}
        for module in modules:
            if module.card.fingerprint != first.card.fingerprint:
                raise differ(first, module, "backbone", first.card.fingerprint[:8], module.card.fingerprint[:8])
            for name, value in acting_settings(module).items():
                if name not in SCALING and value != plain.get(name):
                    raise DeltaError(
                        f"{module.id!r} cannot be merged by its products: it has {name}={value!r}",
                        found="what it does to the weights is not scale * B A alone",
                        hint=f"--merge linear among modules of its kind; or leave it out: --exclude {module.id}",
                    )
            method = method_of(module)
            assert isinstance(method, LoRA)
            self.methods[module.id] = method
        self.places = places_of(modules)
        self._at = {module.id: frozenset(places_of([module])) for module in modules}
        self._open: OrderedDict[str, Mapping[str, Tensor]] = OrderedDict()
        self._shapes: dict[str, tuple[Module, tuple[int, int]]] = {}

    def at(self, place: str) -> Iterator[Factor]:
        """The modules at a place that weigh something there, one by one.

        Memory: one module's factors at the place, unless the caller keeps more.

        Raises:
            DeltaError: the matrix has another size in one of them.
        """
        for module in self.modules:
            weight = self.weights.at(module.id, place)
            if place not in self._at[module.id] or not weight:
                continue
            tensors = self._tensors(module)
            a, b = (tensors[f"{place}.{name}"].detach().float() for name in ("lora_A", "lora_B"))
            first, size = self._shapes.setdefault(place, (module, (b.shape[0], a.shape[1])))
            if size != (b.shape[0], a.shape[1]):
                raise differ(first, module, f"the size of {place}", f"{size}", f"{(b.shape[0], a.shape[1])}")
            yield Factor(module.id, weight, a, b * self.methods[module.id].scale(place))

    def elsewhere(self, place: str) -> list[float]:
        """What the modules weigh that do not act at a place: their change there is none."""
        return [self.weights.at(module.id, place) for module in self.modules if place not in self._at[module.id]]

    def stacked(self, place: str) -> Factors | None:
        """A (ranks, in) and weight * scale * B (out, ranks) of all modules at a place; None where none weighs."""
        found = list(self.at(place))
        if not found:
            return None
        return torch.cat([f.a for f in found]), torch.cat([f.b * f.weight for f in found], dim=1)

    def ranks(self, place: str) -> list[int]:
        """The rank of each module that weighs something at a place; nothing is read."""
        return [
            self.methods[module.id].ranks.get(place, self.methods[module.id].rank)
            for module in self.modules
            if place in self._at[module.id] and self.weights.at(module.id, place)
        ]

    def largest_rank(self, place: str) -> int:
        """The largest rank among all modules at a place, those without weight there too."""
        methods = [self.methods[module.id] for module in self.modules if place in self._at[module.id]]
        return max(method.ranks.get(place, method.rank) for method in methods)

    def size(self, place: str) -> tuple[int, int]:
        """(out, in) of the matrix at a place."""
        if place not in self._shapes:
            module = next(module for module in self.modules if place in self._at[module.id])
            a, b = (self._tensors(module)[f"{place}.{name}"].shape for name in ("lora_A", "lora_B"))
            self._shapes[place] = module, (b[0], a[1])
        return self._shapes[place][1]

    def _tensors(self, module: Module) -> Mapping[str, Tensor]:
        """Mapped; at most 128 files at once, those used longest ago are closed first."""
        found = self._open.pop(module.id, None)
        self._open[module.id] = found = module.tensors() if found is None else found
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return found

    def delta(self, factors: Mapping[str, Factors | None]) -> Delta:
        """A LoRA whose change at each place is the product of its factors.

        The scale alpha / rank is the one that most modules have, so that training goes on at the pace they had; not 0,
        at which a module changes nothing and nothing could be trained.

        Args:
            factors: place -> A (rank, in) and B (out, rank); None is no change there (rank 1, B at zero).
        """
        scales = Counter(scale for m in self.modules for p in self._at[m.id] if (scale := self.methods[m.id].scale(p)))
        scale = min(scales, key=lambda value: (-scales[value], value), default=1.0)
        tensors, ranks = {}, {}
        for place in self.places:
            a, b = factors[place] or self._nothing(place)
            ranks[place] = len(a)
            tensors[f"{place}.lora_A"] = a.contiguous()
            tensors[f"{place}.lora_B"] = (b / scale).contiguous()
        sizes = Counter(ranks.values())
        rank = min(sizes, key=lambda value: (-sizes[value], value))
        others = {place: value for place, value in ranks.items() if value != rank}
        first = self.methods[self.modules[0].id]
        method = LoRA(
            rank=rank,
            alpha=scale * rank,
            dropout=first.dropout,
            where=first.where,
            at=tuple(self.places),
            ranks=others,
            alphas={place: scale * value for place, value in others.items()},
            parts=self._parts(),
        )
        embeddings = {place for module in self.modules for place in module.card.settings.get("embeddings", ())}
        known = {"embeddings": [place for place in self.places if place in embeddings]} if embeddings else {}
        return Delta(method, tensors, {**method.settings(), **known})

    def _parts(self) -> dict[str, list[str]]:
        """place -> the parts of its fused layer that any module trains; not where one of them trains the whole."""
        found: dict[str, set[str]] = {}
        whole: set[str] = set()
        for module in self.modules:
            parts = module.card.settings.get("parts", {})
            for place in self._at[module.id]:
                if place in parts:
                    found.setdefault(place, set()).update(parts[place])
                else:
                    whole.add(place)
        return {place: sorted(names) for place, names in found.items() if place not in whole}

    def _nothing(self, place: str) -> Factors:
        n_out, n_in = self.size(place)
        return torch.full((1, n_in), n_in**-0.5), torch.zeros(n_out, 1)


@dataclass(frozen=True, kw_only=True)
class ProductRule(MergeRule):
    """A rule on the changes of weights that LoRA modules make; see `Products`."""

    methods: ClassVar[frozenset[str] | None] = frozenset({"lora"})
    mixes: ClassVar[bool] = True
    in_products: ClassVar[bool] = True
    leaves_start: ClassVar[bool] = False

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        products = Products(modules, weights)
        return products.delta({place: self.factors(products, place) for place in products.places})

    @abstractmethod
    def factors(self, products: Products, place: str) -> Factors | None:
        """A (rank, in) and B (out, rank) of the merged change at a place; None where no module weighs anything."""
