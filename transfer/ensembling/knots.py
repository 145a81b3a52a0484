"""knots: TIES in a basis that all modules share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
import torch

from transfer.ensembling.election import Election, check_density, trim
from transfer.ensembling.factoring import Cut, Factors, from_factors
from transfer.ensembling.products import ProductRule, Products
from transfer.ensembling.rule import Kept
from transfer.ensembling.svd import cut_at

SHARED = 1e-6  # directions of less than this share of the largest singular value are rounding


@dataclass(frozen=True, kw_only=True)
class Knots(ProductRule):
    """The changes beside each other are U S [V_1 .. V_n]^T; the V_j are merged by TIES, and U S takes them back.

    LoRA modules that were trained apart have little in common value by value; in the basis U of their own outputs they
    can be compared. Modules may differ in ranks, scales, places and starts. A module that is there twice counts twice
    in the basis.

    Memory: at one place, four matrices (directions, in) and the Gram matrix (out, out), with as many directions as the
    modules' ranks together but never more than `out`: it grows with the number of modules up to that, no further.

    Args:
        density: Share of each V_j's values that is kept, in (0, 1].
        rank: Of the result at every place; None is the largest of the modules there.
        energy: As for `svd`.

    Source:
        Stoica et al. 2025, arxiv.org/abs/2410.19735, section 4 (KnOTS-TIES).
    """

    name: ClassVar[str] = "knots"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation"})
    keeps_with: ClassVar[Mapping[str, Any]] = {"density": 1.0}

    density: float = 0.2
    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        check_density(self.density)
        Cut(self.rank, self.energy)

    def factors(self, products: Products, place: str) -> Factors | None:
        ranks = products.ranks(place)
        if not ranks:
            return None
        n_out, n_in = products.size(place)
        gram = torch.zeros(n_out, n_out, dtype=torch.float64)
        for factor in products.at(place):
            a, b = factor.a.double(), factor.b.double()
            gram += b @ (a @ a.T) @ b.T
        most = min(sum(ranks), n_out)
        squares, vectors = scipy.linalg.eigh(gram.numpy(), subset_by_index=(n_out - most, n_out - 1))
        kept = squares > max(SHARED**2 * squares[-1], np.finfo(np.float64).tiny)
        if not kept.any():
            return None
        u, s = torch.from_numpy(vectors[:, kept]), torch.from_numpy(np.sqrt(squares[kept]))
        election = Election((len(s), n_in))
        for factor in products.at(place):
            v = ((u.T @ factor.b.double()) @ factor.a.double() / s[:, None]).float()
            election.add(trim(v[None], self.density), torch.tensor([factor.weight]))
        for weight in products.elsewhere(place):
            election.add_still(weight)
        basis = (u * s).float()
        return from_factors(election.merged(), basis, cut_at(products, place, self.rank, self.energy))
