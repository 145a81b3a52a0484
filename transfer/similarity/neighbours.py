"""Similarity by neighbours: whose examples lie nearest to those of the target, found with FAISS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from transfer.errors import ConfigError
from transfer.similarity.estimator import Estimator
from transfer.similarity.sources import signature_arrays
from transfer.similarity.target import Target
from zoo import Module

NEAREST = 32  # neighbours of each target example that vote
CLOSEST = 0.01  # distances are not taken for smaller: stored examples are fp16, and a repeated one must not be infinite


class NeighbourVotes(Estimator):
    """Share of the votes of the target examples' nearest source examples, each worth 1 / distance, in [0, 1].

    Every target example has one vote in all, divided over its 32 nearest neighbours in the whole zoo; so a score
    depends on which other tasks there are. Modules that hold the same examples (one task, several methods or seeds)
    stand in the search once, and all get their task's share. FAISS searches exactly, by Euclidean distance.
    """

    name = "neighbours:votes"

    def __init__(self, nearest: int = NEAREST) -> None:
        if nearest < 1:
            raise ConfigError(f"nearest must be at least 1, got {nearest}")
        self.nearest = nearest

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        import faiss

        ours = np.ascontiguousarray(target.embeddings, dtype=np.float32)
        unique: dict[bytes, np.ndarray] = {}
        keys = []
        for examples in signature_arrays(modules, "examples", ours.shape[1]):
            examples = np.ascontiguousarray(examples, dtype=np.float32)
            keys.append(hashlib.sha256(examples.tobytes()).digest())
            unique[keys[-1]] = examples
        order = sorted(unique)  # by content: neighbours at equal distance come the same way round whatever the order
        number = {key: place for place, key in enumerate(order)}
        owner = np.concatenate([np.full(len(unique[key]), number[key]) for key in order])
        index = faiss.IndexFlatL2(ours.shape[1])
        index.add(np.concatenate([unique[key] for key in order]))
        squares, found = index.search(ours, min(self.nearest, len(owner)))
        weights = 1 / np.maximum(np.sqrt(np.maximum(squares, 0).astype(np.float64)), CLOSEST)
        weights /= weights.sum(axis=1, keepdims=True)
        votes = np.bincount(owner[found.ravel()], weights.ravel(), minlength=len(order)) / len(ours)
        return np.asarray(votes[[number[key] for key in keys]])
