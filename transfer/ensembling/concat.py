"""concat: the exact weighted sum of products, with ranks that add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transfer.ensembling.factoring import Factors
from transfer.ensembling.products import ProductRule, Products
from transfer.ensembling.rule import Kept


@dataclass(frozen=True, kw_only=True)
class Concat(ProductRule):
    """sum_j w_j scale_j B_j A_j, exactly: the A of all modules under each other, their B beside each other.

    Modules may differ in ranks, scales, places and starts. The rank at a place is the sum of the modules' ranks there.

    Memory: the result, which grows with the number of modules as they do themselves; `svd` gives the same sum at a
    rank of one's choice.
    """

    name: ClassVar[str] = "concat"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})

    def factors(self, products: Products, place: str) -> Factors | None:
        return products.stacked(place)
