"""MergeRule: what all ways of merging share, and what each declares of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from transfer.deltas.delta import Delta
from zoo import Module

# What a merge may keep; a test holds each rule to what it declares, over every method it takes.
#   identity      one module at weight 1 comes out as it is
#   scale         the change from the start is linear in the weights: twice the weights, twice the change
#   sign          weight -1 gives the opposite change
#   permutation   the order of modules does not matter, to the last bit
#   duplicates    two modules of equal tensors act as one with the sum of their weights
Kept = Literal["identity", "scale", "sign", "permutation", "duplicates"]


class MergeRule(ABC):
    """A way to merge modules. A new one is a file with `merge`, an entry in `MERGES`, and what it keeps.

    Attributes:
        name: As in `MERGES`.
        keeps: What holds for modules with a shared start.
        methods: Methods of deltas that it takes; None is all.
        mixes: True where modules of different places, ranks, scales and starts may be in one merge.
    """

    name: ClassVar[str]
    keeps: ClassVar[frozenset[Kept]]
    methods: ClassVar[frozenset[str] | None] = None
    mixes: ClassVar[bool] = False

    def remarks(self, modules: Sequence[Module]) -> list[str]:
        """Lines for the user on what may be wrong with merging these modules; none by default."""
        return []

    @abstractmethod
    def merge(self, modules: Sequence[Module], weights: Mapping[str, float]) -> Delta:
        """One delta, fp32.

        Args:
            modules: Sorted by id, of one method, at least one. Each is read when its turn comes, and only then.
            weights: Module id -> finite weight, for these modules.
        Raises:
            DeltaError: the modules cannot be merged in this way; names them.
        """
