"""linear: the weighted sum of the modules' changes from their shared start, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.ensembling.compatible import Starts, check_alike
from transfer.ensembling.rule import Kept, MergeRule
from transfer.errors import DeltaError
from zoo import Module

SUM_TOLERANCE = 1e-9  # weights that sum to 1 within it need no start


class Linear(MergeRule):
    """theta_0 + sum_j w_j (theta_j - theta_0) for modules with the shared start theta_0, any finite weights.

    Computed as (1 - sum_j w_j) theta_0 + sum_j w_j theta_j, which is the same, and gives one module at weight 1 back
    to the last bit. Where a start is not known, or the modules have different ones, weights must be at least 0 and sum
    to 1: then theta_0 has no part in it, but nothing says that the modules can be averaged well; `remarks` says so.
    LoRA's A and B are averaged apart, which keeps the rank; it is not the average of the products B A.

    Memory: two modules, whatever the number of modules.

    Source:
        Lv et al. 2023, aclanthology.org/2023.acl-short.24 (weights that sum to 1); Ilharco et al. 2023,
        arxiv.org/abs/2212.04089 (differences from a shared start).
    """

    name: ClassVar[str] = "linear"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})

    def merge(self, modules: Sequence[Module], weights: Mapping[str, float]) -> Delta:
        check_alike(modules)
        self._check_starts(modules, weights)
        left = 1 - math.fsum(weights[module.id] for module in modules)
        total: dict[str, Tensor] = {}
        for module in modules:
            _add(total, module.tensors(), weights[module.id], module, modules[0])
        if abs(left) > SUM_TOLERANCE:
            start = modules[0].start()
            assert start is not None
            _add(total, start, left, modules[0], modules[0])
        first = Delta.from_module(modules[0])
        return Delta(first.method, {name: total[name] for name in first.tensors}, first.settings)

    def remarks(self, modules: Sequence[Module]) -> list[str]:
        by_start: dict[str, list[Module]] = {}
        starts = Starts()
        for module in modules:
            start = starts.of(module)
            if start is not None:
                by_start.setdefault(start, []).append(module)
        if len(by_start) < 2:
            return []
        fewest = min(by_start.values(), key=len)
        return [
            f"the merged modules were trained from {len(by_start)} different starts: averaged tensor by tensor they "
            f"may do badly ({fewest[0].id} has another start than most), which the guard's verdict would show"
        ]

    def _check_starts(self, modules: Sequence[Module], weights: Mapping[str, float]) -> None:
        """Refuse weights that need the shared start where there is none."""
        total = math.fsum(weights[module.id] for module in modules)
        if all(weights[module.id] >= 0 for module in modules) and abs(total - 1) <= SUM_TOLERANCE:
            return
        starts = Starts()
        first = starts.of(modules[0])
        for module in modules:
            start = starts.of(module)
            if start is not None and start == first:
                continue
            if start is None:
                why, start = f"the start of {module.id!r} is not known", "unknown"
            else:
                why = f"{modules[0].id!r} and {module.id!r} were trained from different starts"
            raise DeltaError(
                f"{why}, so weights must be at least 0 and sum to 1",
                found=f"they sum to {total:.6g}, the smallest is {min(weights.values()):.6g}; "
                f"starts {(first or 'unknown')[:8]} and {start[:8]}",
                hint=f"weights of weigh(scores) do; or leave it out: --exclude {module.id}",
            )


def _add(total: dict[str, Tensor], tensors: Mapping[str, Tensor], weight: float, module: Module, first: Module) -> None:
    """total += weight * tensors, in fp32, in place; only one tensor of the module is in memory at a time."""
    if total and total.keys() != set(tensors):
        raise DeltaError(f"{first.id!r} and {module.id!r} have other tensors, though their settings agree")
    for name, tensor in tensors.items():
        if name not in total:
            total[name] = torch.zeros(tensor.shape, dtype=torch.float32)
        if total[name].shape != tensor.shape:
            raise DeltaError(
                f"{first.id!r} and {module.id!r} cannot be merged tensor by tensor: {name} differs in shape",
                found=f"{tuple(total[name].shape)} and {tuple(tensor.shape)}",
                hint=f"leave one kind out: --exclude {module.id}",
            )
        total[name].add_(tensor.detach().cpu().float(), alpha=weight)
