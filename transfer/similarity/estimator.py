"""Estimator: gives the similarity of each source module to a target task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from transfer.errors import SourceError
from transfer.similarity.target import Target
from zoo import Module


class Estimator(ABC):
    """A new estimator is a new class with `values`, an entry in `ESTIMATORS` and a test; concrete ones are final."""

    name: ClassVar[str]  # "family:variant"

    @abstractmethod
    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        """(modules,): higher is closer; a mean per example, so that it does not grow with the number of examples.

        Raises:
            SourceError: a module lacks what the estimator needs; names it and the remedy.
        """

    def score(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        """Similarity of each module to the target, (modules,), float64, finite; higher is closer.

        A module's score depends on the others only where the estimator says so (votes), never on their order.

        Raises:
            SourceError: there are no modules, one lacks what the estimator needs, or its score is not finite.
        """
        if not modules:
            raise SourceError("there are no modules to score", hint="transfer zoo ls shows what there is")
        # Always computed in the same order: sums of floats would otherwise differ in the last digits.
        order = sorted(range(len(modules)), key=lambda index: modules[index].id)
        ordered = [modules[index] for index in order]
        found = np.asarray(self.values(target, ordered), dtype=np.float64)
        if found.shape != (len(modules),):
            raise ValueError(f"{self.name} gave scores of shape {found.shape} for {len(modules)} modules")
        if not np.isfinite(found).all():
            worst = ordered[int(np.flatnonzero(~np.isfinite(found))[0])]
            raise SourceError(
                f"the score of module {worst.id!r} by {self.name} is not finite",
                found="its tensors may have diverged in training",
                hint=f"leave it out: --exclude {worst.id}",
            )
        scores = np.empty(len(modules))
        scores[order] = found
        return scores
