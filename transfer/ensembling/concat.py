"""concat: the exact weighted sum of products, with ranks that add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.products import ProductRule, Products
from transfer.ensembling.rule import Kept
from zoo import Module


@dataclass(frozen=True, kw_only=True)
class Concat(ProductRule):
    """sum_j w_j scale_j B_j A_j, exactly: the A of all modules under each other, their B beside each other.

    Modules may differ in ranks, scales, places and starts. The rank at a place is the sum of the modules' ranks there.

    Memory: the result, which grows with the number of modules as they do themselves; `svd` gives the same sum at a
    rank of one's choice.
    """

    name: ClassVar[str] = "concat"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        products = Products(modules, weights)
        return products.delta({place: products.stacked(place) for place in products.places})
