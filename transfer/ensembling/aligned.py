"""aligned: hidden units are matched before they are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.compatible import check_alike
from transfer.ensembling.rule import Kept, MergeRule
from transfer.ensembling.streaming import check_names, delta_like
from transfer.errors import DeltaError
from zoo import Module

DOWN, DOWN_BIAS, UP = "_down.weight", "_down.bias", "_up.weight"


@dataclass(frozen=True, kw_only=True)
class Aligned(MergeRule):
    """The weighted average of bottlenecks whose hidden units have been put into the same order.

    A bottleneck answers the same in whatever order its hidden units stand, so units that mean the same may stand in
    other places in modules of different starts. The order of the heaviest module (of equal ones the first id) is kept;
    at every place the units of each other module are assigned to its units so that the inner products of what goes
    into a unit (row of down, its bias) and of what comes out (column of up), each at the length it has, sum to the
    most. Weights must be at least 0 and sum to 1.

    Memory: the result, the kept module and one module, whatever the number of modules.

    Source:
        Ainsworth et al. 2023, arxiv.org/abs/2209.04836, section 3.2 (weight matching), for one hidden layer.
    """

    name: ClassVar[str] = "aligned"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "permutation"})
    methods: ClassVar[frozenset[str] | None] = frozenset({"adapter", "parallel-adapter"})
    leaves_start: ClassVar[bool] = False
    signed: ClassVar[bool] = False

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        check_alike(modules)
        ids = [module.id for module in modules]
        if not weights.average_only(ids):
            raise DeltaError(
                "'aligned' averages, so weights must be at least 0 and sum to 1",
                found=f"they sum to {weights.sums(ids)[0]:.6g}",
                hint="weights of weigh(scores) do",
            )
        heaviest = max(range(len(modules)), key=lambda index: (float(weights.row(ids[index]).sum()), -index))
        kept = {name: tensor.float() for name, tensor in modules[heaviest].tensors().items()}
        places = [name.removesuffix(DOWN) for name in kept if name.endswith(DOWN)]
        total = {name: torch.zeros_like(tensor) for name, tensor in kept.items()}
        for module in modules:
            tensors = {name: tensor.detach().float() for name, tensor in module.tensors().items()}
            check_names(modules[heaviest], kept, module, tensors)
            for place in places:
                if module is not modules[heaviest]:
                    reorder(tensors, place, matching(kept, tensors, place))
            for name, tensor in tensors.items():
                total[name].add_(tensor, alpha=weights.at(module.id, name))
        return delta_like(modules[0], total)


def matching(kept: Mapping[str, Tensor], other: Mapping[str, Tensor], place: str) -> Tensor:
    """(units,): for each hidden unit of `kept` at a place, the unit of `other` that is most like it, each used once."""
    likeness = kept[place + DOWN].double() @ other[place + DOWN].double().T
    likeness += kept[place + UP].double().T @ other[place + UP].double()
    if place + DOWN_BIAS in kept:
        likeness += torch.outer(kept[place + DOWN_BIAS].double(), other[place + DOWN_BIAS].double())
    return torch.from_numpy(linear_sum_assignment(likeness.numpy(), maximize=True)[1])


def reorder(tensors: dict[str, Tensor], place: str, order: Tensor) -> None:
    """Put the hidden units at a place into another order; the bottleneck answers as before."""
    tensors[place + DOWN] = tensors[place + DOWN][order]
    tensors[place + UP] = tensors[place + UP][:, order]
    if place + DOWN_BIAS in tensors:
        tensors[place + DOWN_BIAS] = tensors[place + DOWN_BIAS][order]
