"""published: the raw weighted sum of tensors, as papers and other libraries have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.compatible import check_alike, remark_on_starts
from transfer.ensembling.linear import weighted_sum
from transfer.ensembling.rule import Kept, MergeRule
from transfer.ensembling.streaming import delta_like
from zoo import Module


@dataclass(frozen=True, kw_only=True)
class Published(MergeRule):
    """sum_j w_j theta_j, tensor by tensor, whatever the weights sum to and wherever the modules started.

    Equal to `linear` where the weights sum to 1. Elsewhere the start itself is scaled along: for LoRA twice the
    weights give four times the change. It is there for parity with published code.

    Memory: the result and one tensor, whatever the number of modules.

    Source:
        Huang et al. 2024, arxiv.org/abs/2307.13269 (LoraHub, equation 1).
    """

    name: ClassVar[str] = "published"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "permutation", "duplicates"})
    leaves_start: ClassVar[bool] = False

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        check_alike(modules)
        return delta_like(modules[0], weighted_sum(modules, weights))

    def remarks(self, modules: Sequence[Module]) -> list[str]:
        return remark_on_starts(modules)
