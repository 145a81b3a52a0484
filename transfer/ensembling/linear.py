"""linear: the weighted sum of the modules' changes from their shared start, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import SUM_TOLERANCE, Weights
from transfer.ensembling.compatible import check_alike, check_one_start, remark_on_starts
from transfer.ensembling.rule import Kept, MergeRule
from transfer.ensembling.streaming import check_names, delta_like, other_shape
from zoo import Module


@dataclass(frozen=True, kw_only=True)
class Linear(MergeRule):
    """theta_0 + sum_j w_j (theta_j - theta_0) for modules with the shared start theta_0, any finite weights.

    Computed as (1 - sum_j w_j) theta_0 + sum_j w_j theta_j, which is the same, and gives one module at weight 1 back
    to the last bit. Where a start is not known, or the modules have different ones, weights must be at least 0 and sum
    to 1: then theta_0 has no part in it, but nothing says that the modules can be averaged well; `remarks` says so.
    LoRA's A and B are averaged apart, which keeps the rank; it is not the average of the products B A.

    Memory: the result and one tensor, whatever the number of modules.

    Source:
        Lv et al. 2023, aclanthology.org/2023.acl-short.24 (weights that sum to 1); Ilharco et al. 2023,
        arxiv.org/abs/2212.04089 (differences from a shared start).
    """

    name: ClassVar[str] = "linear"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        check_alike(modules)
        ids = [module.id for module in modules]
        if not weights.average_only(ids):
            values = [float(value) for module_id in ids for value in weights.row(module_id)]
            sums = weights.sums(ids)
            check_one_start(
                modules,
                "so weights must be at least 0 and sum to 1 "
                f"(they sum to {max(sums, key=lambda s: abs(s - 1)):.6g}, the smallest is {min(values):.6g})",
                "weights of weigh(scores) do",
            )
        total = weighted_sum(modules, weights)
        left = [1 - value for value in weights.sums(ids)]
        if any(abs(share) > SUM_TOLERANCE for share in left):
            start = modules[0].start()
            assert start is not None
            for name, tensor in start.items():
                total[name].add_(tensor, alpha=left[weights.column(name)])
        return delta_like(modules[0], total)

    def remarks(self, modules: Sequence[Module]) -> list[str]:
        return remark_on_starts(modules)


def weighted_sum(modules: Sequence[Module], weights: Weights) -> dict[str, Tensor]:
    """sum_j w_j theta_j, tensor by tensor, in fp32; one tensor of one module is in memory at a time.

    Raises:
        DeltaError: tensors of two modules differ in name or shape.
    """
    total: dict[str, Tensor] = {}
    for module in modules:
        _add(total, module.tensors(), weights, module, modules[0])
    return total


def _add(
    total: dict[str, Tensor], tensors: Mapping[str, Tensor], weights: Weights, module: Module, first: Module
) -> None:
    if total:
        check_names(first, total, module, tensors)
    for name, tensor in tensors.items():
        if name not in total:
            total[name] = torch.zeros(tensor.shape, dtype=torch.float32)
        if total[name].shape != tensor.shape:
            raise other_shape(first, module, name, tuple(total[name].shape), tuple(tensor.shape))
        total[name].add_(tensor.detach().cpu().float(), alpha=weights.at(module.id, name))
