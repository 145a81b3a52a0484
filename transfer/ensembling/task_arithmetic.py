"""task-arithmetic: changes from the shared start are added and subtracted, and the sum is scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.compatible import check_alike, check_one_start
from transfer.ensembling.rule import Kept, MergeRule
from transfer.ensembling.streaming import delta_like, stacks
from transfer.errors import ConfigError
from zoo import Module


@dataclass(frozen=True, kw_only=True)
class TaskArithmetic(MergeRule):
    """theta_0 + scale * sum_j w_j (theta_j - theta_0): weights below 0 forget a task, analogies add and subtract.

    The same as `linear` at scale 1, but it always asks for the shared start, also where weights happen to sum to 1.

    Memory: the result and one chunk, whatever the number of modules.

    Args:
        scale: Of the whole change; any finite number.

    Source:
        Ilharco et al. 2023, arxiv.org/abs/2212.04089, section 2.
    """

    name: ClassVar[str] = "task-arithmetic"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})
    needs_start: ClassVar[bool] = True

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ConfigError(f"scale must be a finite number, got {self.scale}")

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        start = shared_start(modules, self.name)
        total = {name: tensor.clone() for name, tensor in start.items()}
        for name, _, values, shares in stacks(modules, weights):
            values -= start[name]
            total[name] += self.scale * torch.tensordot(shares, values, dims=1)
        return delta_like(modules[0], total)


def shared_start(modules: Sequence[Module], how: str) -> dict[str, Tensor]:
    """The start of all of the modules, fp32.

    Raises:
        DeltaError: they differ in settings, or in their starts; names the modules.
    """
    check_alike(modules)
    instead = (
        "--merge svd and --merge knots need none" if modules[0].card.method == "lora" else "--merge linear needs none"
    )
    check_one_start(modules, f"and {how!r} merges changes from the start that all share", instead)
    start = modules[0].start(torch.float32)
    assert start is not None
    return dict(start)
