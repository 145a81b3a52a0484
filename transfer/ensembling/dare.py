"""dare and dare-ties: random values of each change are dropped, the rest is scaled up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.deltas.method import generator_for
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.election import check_density
from transfer.ensembling.rule import Kept, MergeRule
from transfer.ensembling.streaming import delta_like, stacks
from transfer.ensembling.task_arithmetic import shared_start
from transfer.ensembling.ties import Ties
from zoo import Module


@dataclass(frozen=True, kw_only=True)
class Dare(MergeRule):
    """DARE: each value of a change stays with probability `density` and is divided by it; then the weighted sum.

    What is dropped depends on the module's id, the tensor's name and the seed, never on the order of the modules.

    Memory: the result and one chunk, whatever the number of modules.

    Args:
        density: Probability that a value stays, in (0, 1].
        seed: Of the drops.

    Source:
        Yu et al. 2024, arxiv.org/abs/2311.03099, section 3.2.
    """

    name: ClassVar[str] = "dare"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})
    keeps_with: ClassVar[Mapping[str, Any]] = {"density": 1.0}
    needs_start: ClassVar[bool] = True

    density: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_density(self.density)

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        start = shared_start(modules, self.name)
        total = {name: tensor.clone() for name, tensor in start.items()}
        for name, ids, values, shares in stacks(modules, weights):
            values -= start[name]
            total[name] += torch.tensordot(shares, drop(values, name, ids, self.density, self.seed), dims=1)
        return delta_like(modules[0], total)


@dataclass(frozen=True, kw_only=True)
class DareTies(Ties):
    """DARE's random drops in place of the trimming of `ties`; then the election of signs.

    Memory: as `ties`.

    Args:
        density: Probability that a value stays, in (0, 1].
        seed: Of the drops.

    Source:
        Yu et al. 2024, arxiv.org/abs/2311.03099, section 4.1 (DARE before TIES).
    """

    name: ClassVar[str] = "dare-ties"

    density: float = 0.5
    seed: int = 0

    def prepared(self, name: str, ids: Sequence[str], changes: Tensor) -> Tensor:
        return drop(changes, name, ids, self.density, self.seed)


def drop(changes: Tensor, name: str, ids: Sequence[str], density: float, seed: int) -> Tensor:
    """Drop random values of (modules, *shape) and divide the rest by the density, in place."""
    if density < 1:
        for change, module_id in zip(changes, ids, strict=True):
            stays = torch.rand(change.shape, generator=generator_for(seed, f"{module_id}:{name}")) < density
            change *= stays
        changes /= density
    return changes
