"""ties: trim each change, elect a sign for every value, average the changes that agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import Weights
from transfer.ensembling.election import Election, check_density, trim
from transfer.ensembling.rule import Kept, MergeRule
from transfer.ensembling.streaming import delta_like, stacks
from transfer.ensembling.task_arithmetic import shared_start
from zoo import Module


@dataclass(frozen=True, kw_only=True)
class Ties(MergeRule):
    """TIES: of each change from the shared start the largest values of a tensor are kept; then see `Election`.

    Trimmed tensor by tensor, as PEFT does. The published rule gives every module the same weight and the mean of
    those that agree; with weights this is their weighted mean, times the sum of the |weights|.

    Memory: five tensors for each of the result's and one chunk, whatever the number of modules, which are read once.

    Args:
        density: Share of each tensor's values that is kept, in (0, 1].

    Source:
        Yadav et al. 2023, arxiv.org/abs/2306.01708, section 4.
    """

    name: ClassVar[str] = "ties"
    keeps: ClassVar[frozenset[Kept]] = frozenset({"identity", "scale", "sign", "permutation", "duplicates"})
    keeps_with: ClassVar[Mapping[str, Any]] = {"density": 1.0}
    needs_start: ClassVar[bool] = True

    density: float = 0.2

    def __post_init__(self) -> None:
        check_density(self.density)

    def prepared(self, name: str, ids: Sequence[str], changes: Tensor) -> Tensor:
        """The changes (modules, *shape) of one tensor as they go into the election; may overwrite them."""
        return trim(changes, self.density)

    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        start = shared_start(modules, self.name)
        elections = {name: Election(tuple(tensor.shape)) for name, tensor in start.items()}
        for name, ids, values, shares in stacks(modules, weights):
            values -= start[name]
            elections[name].add(self.prepared(name, ids, values), shares)
        return delta_like(modules[0], {name: start[name] + elections[name].merged() for name in start})
