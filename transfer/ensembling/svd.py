"""svd: the exact weighted sum of products, re-factored to a rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transfer.ensembling.factoring import Cut, Factors, from_factors, from_matrix
from transfer.ensembling.products import Factor, ProductRule, Products
from transfer.ensembling.rule import Kept

SUMMED = 64  # ranks that are multiplied at once


@dataclass(frozen=True, kw_only=True)
class Svd(ProductRule):
    """sum_j w_j scale_j B_j A_j, cut to its largest singular directions: no other product of that rank is closer.

    Exact where the rank is at least that of the sum. Modules may differ in ranks, scales, places and starts.

    Memory: while the ranks together are below both sides of a matrix, the modules' factors at one place; above, the
    matrix of one place in full (fp64 for a moment) and one module's factors, whatever the number of modules.

    Args:
        rank: At every place; None is the largest rank of the modules there, or with `energy` as many as it takes.
        energy: Share of the squared singular values that is kept at each place, in (0, 1], by as few directions as
            can; `rank` is then the most.
    """

    name: ClassVar[str] = "svd"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        Cut(self.rank, self.energy)

    def factors(self, products: Products, place: str) -> Factors | None:
        ranks = products.ranks(place)
        if not ranks:
            return None
        cut = cut_at(products, place, self.rank, self.energy)
        if sum(ranks) < min(products.size(place)):
            stacked = products.stacked(place)
            assert stacked is not None
            return from_factors(*stacked, cut)
        return from_matrix(summed(products, place), cut)


def cut_at(products: Products, place: str, rank: int | None, energy: float | None) -> Cut:
    """What is kept at a place: by default the largest rank that a module has there."""
    return Cut(products.largest_rank(place) if rank is None and energy is None else rank, energy)


def summed(products: Products, place: str) -> Tensor:
    """The weighted sum of the changes at a place in full, (out, in), fp32."""
    total = torch.zeros(products.size(place))
    waiting: list[Factor] = []

    def multiply() -> None:
        if waiting:
            b = torch.cat([f.b * f.weight for f in waiting], dim=1)
            total.addmm_(b, torch.cat([f.a for f in waiting]))
            waiting.clear()

    for factor in products.at(place):
        waiting.append(factor)
        if sum(len(f.a) for f in waiting) >= SUMMED:
            multiply()
    multiply()
    return total
