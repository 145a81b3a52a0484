"""regmean: the change of weights that answers as each module does on that module's own inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from transfer.ensembling.factoring import Cut, Factors, from_matrix
from transfer.ensembling.products import ProductRule, Products
from transfer.ensembling.rule import Kept
from transfer.ensembling.svd import cut_at
from transfer.errors import ConfigError, DeltaError

RIDGE = 1e-6  # of the mean diagonal, added to it: inputs that never occur are left as they are

Grams = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class RegMean(ProductRule):
    """(sum_j w_j D_j G_j) (sum_j w_j G_j)^-1 with D_j = scale_j B_j A_j and G_j = X_j^T X_j / tokens, cut to a rank.

    It is the least-squares answer: on the inputs X_j of module j's own task the merged change does what D_j does.
    Modules may differ in ranks, scales, places and starts.

    Memory: at one place, two matrices of its size and the modules' factors; the Gram matrices (in, in) of every module
    and place are the caller's.

    Args:
        grams: Module id -> place -> G_j (in, in), as `input_grams` gives them; of the places of all modules.
        shrink: Off-diagonal values of the Gram matrices are scaled by it, in [0, 1].
        rank: Of the result at every place; None is the largest of the modules there.
        energy: As for `svd`.

    Source:
        Jin et al. 2023, arxiv.org/abs/2212.09849, section 3 (there for whole weights, shrink 0.9).
    """

    name: ClassVar[str] = "regmean"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "permutation", "duplicates"})
    signed: ClassVar[bool] = False

    grams: Grams | None = field(default=None, repr=False, hash=False, compare=False)
    shrink: float = 0.9
    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        Cut(self.rank, self.energy)
        if not 0 <= self.shrink <= 1:
            raise ConfigError(f"shrink must be in [0, 1], got {self.shrink}")

    def factors(self, products: Products, place: str) -> Factors | None:
        if not products.ranks(place):
            return None
        n_out, n_in = products.size(place)
        seen, answered = torch.zeros(n_in, n_in, dtype=torch.float64), torch.zeros(n_out, n_in, dtype=torch.float64)
        there = {factor.module: factor for factor in products.at(place)}
        for module in products.modules:
            weight = products.weights.at(module.id, place)
            if not weight:
                continue
            gram = self._gram(module.id, place, n_in) * weight
            seen += gram
            if module.id in there:  # one that is not changes nothing there, and that is its answer
                factor = there[module.id]
                answered += factor.b.double() @ (factor.a.double() @ gram)
        merged = torch.linalg.solve(seen, answered.T).T  # a Gram matrix is its own transpose
        return from_matrix(merged.float(), cut_at(products, place, self.rank, self.energy))

    def _gram(self, module_id: str, place: str, width: int) -> Tensor:
        found = ({} if self.grams is None else self.grams).get(module_id, {}).get(place)
        if found is None or tuple(found.shape) != (width, width):
            raise DeltaError(
                f"'regmean' needs the inputs of module {module_id!r} at {place}",
                found="no Gram matrix" if found is None else f"one of shape {tuple(found.shape)}",
                hint="grams={module id: input_grams(backbone, encoded, places)} of its own task's examples",
            )
        gram = found.double()
        diagonal = gram.diagonal()
        ridge = RIDGE * float(diagonal.mean()) or 1.0
        return gram * self.shrink + torch.diag(diagonal * (1 - self.shrink) + ridge)
