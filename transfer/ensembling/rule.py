"""MergeRule: what all ways of merging share, and what each declares of itself."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from transfer.deltas.delta import Delta
from transfer.ensembling import MERGES
from transfer.ensembling.block_weights import Weights
from transfer.errors import ConfigError
from zoo import Module

# What a merge may keep; a test holds each rule to what it declares, over every method it takes.
#   identity      one module at weight 1 comes out as it is
#   scale         the change is linear in the weights: twice the weights, twice the change
#   sign          weight -1 gives the opposite change
#   permutation   the order of modules does not matter, to the last bit
#   duplicates    two modules of equal tensors act as one with the sum of their weights
Kept = Literal["identity", "scale", "sign", "permutation", "duplicates"]


@dataclass(frozen=True, kw_only=True)
class MergeRule(ABC):
    """A way to merge modules. A new one is a file with `merge`, an entry in `MERGES`, and what it keeps.

    The fields of a rule are its options: `merge(modules, weights, "svd", rank=16)`.

    Attributes:
        name: As in `MERGES`.
        keeps: What holds, for modules with a shared start where the rule needs one.
        keeps_with: Options at which it holds; empty where it holds at any.
        methods: Methods of deltas that it takes; None is all.
        mixes: True where modules of different places, ranks, scales and starts may be in one merge.
        in_products: True where LoRA counts as the change of the weights, `scale * B A`; else tensor by tensor.
        needs_start: True where every module must have been trained from one start.
        leaves_start: True where the result is a point around the modules' shared start, so that a module tuned from it
            can be merged with them tensor by tensor. Where it is False nothing stands behind the result.
        signed: False where weights below 0 are refused.
    """

    name: ClassVar[str]
    keeps: ClassVar[frozenset[Kept]]
    keeps_with: ClassVar[Mapping[str, Any]] = {}
    methods: ClassVar[frozenset[str] | None] = None
    mixes: ClassVar[bool] = False
    in_products: ClassVar[bool] = False
    needs_start: ClassVar[bool] = False
    leaves_start: ClassVar[bool] = True
    signed: ClassVar[bool] = True

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> Self:
        """The rule with these options; None is an option that was not given.

        Raises:
            ConfigError: the rule has no such option, or a value is outside its range.
        """
        given = {name: value for name, value in options.items() if value is not None}
        known = _options_of(cls)
        for name in given:
            if name not in known:
                able = [other for other in MERGES.names() if name in _options_of(MERGES.get(other))]
                raise ConfigError(
                    f"merging by {cls.name!r} has no option {name!r}",
                    found=f"options: {', '.join(known)}" if known else "it has none",
                    hint=f"--merge {able[0]}" + "".join(f" or {other}" for other in able[1:]) if able else None,
                )
        return cls(**given)

    @property
    def options(self) -> dict[str, Any]:
        """Option -> value, those at None left out; what a recipe says of it."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.repr}
        return {name: value for name, value in values.items() if value is not None}

    def remarks(self, modules: Sequence[Module]) -> list[str]:
        """Lines for the user on what may be wrong with merging these modules; none by default."""
        return []

    @abstractmethod
    def merge(self, modules: Sequence[Module], weights: Weights) -> Delta:
        """One delta, fp32.

        Args:
            modules: Sorted by id, of one method, at least one. Each is read when its turn comes, and only then.
            weights: Finite, for these modules.
        Raises:
            DeltaError: the modules cannot be merged in this way; names them.
        """


def _options_of(rule: type[MergeRule]) -> list[str]:
    return [field.name for field in dataclasses.fields(rule)]
