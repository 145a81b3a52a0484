"""Estimator: gives the similarity of each source module to a target task."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from transfer.deltas.blocks import n_blocks
from transfer.errors import ConfigError, SourceError
from transfer.similarity.sources import places_of
from transfer.similarity.target import Target
from zoo import Module
from zoo.shared_starts import Starts
from zoo.tensors import digest

logger = logging.getLogger(__name__)


class Estimator(ABC):
    """A new estimator is a new class with `values`, an entry in `ESTIMATORS` and a test; concrete ones are final."""

    name: ClassVar[str]  # "family:variant"
    per_block: ClassVar[bool] = False  # True where `block_values` is there
    same_shapes: ClassVar[bool] = False  # True where modules of other places or sizes than most cannot be scored
    same_start: ClassVar[bool] = False  # True where a module that was trained from another start gets a score by chance

    @abstractmethod
    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        """(modules,): higher is closer; a mean per example, so that it does not grow with the number of examples.

        Raises:
            SourceError: a module lacks what the estimator needs; names it and the remedy.
        """

    def block_values(self, target: Target, modules: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
        """(modules,) as `values` gives, and (modules, blocks): the same for every block that the modules reach.

        Where `per_block`: both from one run. Blocks are numbered by `block_indices` over the places of all modules.
        """
        raise ConfigError(f"{self.name} does not score blocks")

    def score_blocks(self, target: Target, modules: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
        """Similarity of each module, as `score` has it, and in each block: (modules, blocks), float64, finite.

        Raises:
            ConfigError: the estimator does not score blocks, or the modules reach none.
            SourceError: as `score`.
        """
        blocks = n_blocks(places_of(modules)) if modules else 0
        if modules and not blocks:
            raise ConfigError(
                f"{modules[0].card.method} modules are in no block of the backbone, so blocks cannot be weighed",
                hint="leave out --per-block",
            )

        def both(target: Target, modules: Sequence[Module]) -> np.ndarray:
            return np.column_stack(self.block_values(target, modules))

        table = self._ordered(target, modules, both, (1 + blocks,))
        return table[:, 0], table[:, 1:]

    def score(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        """Similarity of each module to the target, (modules,), float64, finite; higher is closer.

        A module's score depends on the others only where the estimator says so (votes), never on their order.

        Raises:
            SourceError: there are no modules, one lacks what the estimator needs, or its score is not finite.
        """
        return self._ordered(target, modules, self.values, ())

    def _ordered(
        self,
        target: Target,
        modules: Sequence[Module],
        values: Callable[[Target, Sequence[Module]], np.ndarray],
        columns: tuple[int, ...],
    ) -> np.ndarray:
        if not modules:
            raise SourceError("there are no modules to score", hint="transfer zoo ls shows what there is")
        # Always computed in the same order: sums of floats would otherwise differ in the last digits.
        order = sorted(range(len(modules)), key=lambda index: modules[index].id)
        ordered = [modules[index] for index in order]
        if self.same_start:
            self._remark_on_starts(target, ordered)
        found = np.asarray(values(target, ordered), dtype=np.float64)
        if found.shape != (len(modules), *columns):
            raise ValueError(f"{self.name} gave scores of shape {found.shape} for {len(modules)} modules")
        if not np.isfinite(found).all():
            worst = ordered[int(np.argwhere(~np.isfinite(found))[0][0])]
            raise SourceError(
                f"the score of module {worst.id!r} by {self.name} is not finite",
                found="its tensors may have diverged in training",
                hint=f"leave it out: --exclude {worst.id}",
            )
        scores = np.empty(found.shape)
        scores[order] = found
        return scores

    def _remark_on_starts(self, target: Target, modules: Sequence[Module]) -> None:
        starts, ours = Starts(), digest(dict(target.start))
        others = [module.id for module in modules if starts.of(module) not in (ours, None)]
        if others:
            logger.warning(
                f"{len(others)} of {len(modules)} modules were trained from another start than the target is tuned "
                f"from, so {self.name} says little of them: {', '.join(others[:3])}{', ...' if others[3:] else ''}"
            )
