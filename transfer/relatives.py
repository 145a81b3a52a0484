"""Whether a zoo holds a relative of the target at all: where it does not, there is no head start to expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer.similarity.target import Target
from zoo import Module

# Cosine of centroids with the mean of all source centroids taken off, which is what any two texts have in common.
# Measured on MiniLM over 60 tasks: 5% of the pairs of different categories reach it, 23% of those of one category.
# A centroid says what texts are about, little of what is asked of them; hence the category goes first.
CLOSE = 0.45
FEWEST_TASKS = 8  # below, the mean of the source centroids is too much their own to be taken off
NO_CATEGORY = ("other", "unknown", "")


@dataclass(frozen=True, kw_only=True)
class Relatives:
    """What is known of the target's relatives among the sources.

    Args:
        target: Name of the target.
        category: Of the target.
        n_tasks: Source tasks.
        same_category: Source tasks of the target's category; empty where the category says nothing.
        closest: Source task with the closest inputs, or None where that was not looked at or cannot be told.
        cosine: Of its centroid with the target's, both centred.
    """

    target: str
    category: str
    n_tasks: int
    same_category: tuple[str, ...] = ()
    closest: str | None = None
    cosine: float | None = None

    @property
    def found(self) -> bool:
        """True if a source is of the target's category, or its inputs are close."""
        return bool(self.same_category) or (self.cosine is not None and self.cosine >= CLOSE)

    @property
    def told(self) -> bool:
        """False where neither category nor inputs could be compared, so that nothing is known of relatives."""
        return _says(self.category) or self.closest is not None

    @property
    def note(self) -> str | None:
        """A line for the user where no relative was found, or nothing could be compared; else None."""
        if self.found:
            return None
        if not self.told:
            return (
                f"it cannot be told whether there is a relative of {self.target!r} among {self.n_tasks} source tasks: "
                "its category is not known, and there are too few signatures to compare inputs; "
                "giving its category (--category) lets tasks be compared"
            )
        if _says(self.category):
            reasons = [f"none is of category {self.category!r}"]
        else:
            reasons = ["its category is not known"]
        if self.closest is None:
            reasons.append("there are too few signatures to compare inputs")
        else:
            reasons.append(
                f"the closest inputs are those of {self.closest!r} (cosine {self.cosine:.2f}, below {CLOSE})"
            )
        return (
            f"no relative of {self.target!r} among {self.n_tasks} source tasks: {' and '.join(reasons)}; "
            "expect no head start"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "found": self.found if self.told else None,
            "category": self.category,
            "same_category": list(self.same_category),
            "closest": self.closest,
            "cosine": self.cosine,
            "threshold": CLOSE,
        }


def find_relatives(target: Target, modules: Sequence[Module]) -> Relatives:
    """Look for relatives: first by category, which costs nothing, then by inputs.

    A source is a relative if one of its modules is of the target's category (not "other"; capitals do not count), or
    if its centroid lies close to the target's: cosine at least 0.45 after the mean of all source centroids is taken
    off both. The order of modules does not matter.

    Args:
        target: Its training inputs are embedded where the category does not settle it.
        modules: The sources, at least one.
    """
    tasks: dict[str, list[Module]] = {}
    for module in sorted(modules, key=lambda module: (module.card.task, module.id)):
        tasks.setdefault(module.card.task, []).append(module)
    wanted = target.task.category
    known = Relatives(target=target.task.name, category=wanted, n_tasks=len(tasks))
    if _says(wanted):
        same = tuple(name for name, its in tasks.items() if any(_alike(m.card.category, wanted) for m in its))
        if same:
            return replace(known, same_category=same)
    found = {name: _centroid(its, target.backbone.width) for name, its in tasks.items()}
    centroids = {name: centroid for name, centroid in found.items() if centroid is not None}
    if len(centroids) < FEWEST_TASKS:
        return known
    names, rows = list(centroids), np.stack(list(centroids.values())).astype(np.float64)
    mean = rows.mean(axis=0)
    ours, theirs = target.embeddings.mean(axis=0).astype(np.float64) - mean, rows - mean
    norms = np.maximum(np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours), np.finfo(np.float64).tiny)
    cosines = theirs @ ours / norms
    nearest = int(cosines.argmax())
    return replace(known, closest=names[nearest], cosine=float(cosines[nearest]))


def _alike(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()


def _says(category: str) -> bool:
    """False for a category that says nothing of the task."""
    return not any(_alike(category, nothing) for nothing in NO_CATEGORY)


def _centroid(modules: Sequence[Module], width: int) -> np.ndarray | None:
    """Of the inputs of the modules' task: the first there is, of the backbone's width."""
    found = (module.signature.centroid for module in modules)
    return next((centroid for centroid in found if centroid is not None and centroid.shape == (width,)), None)
