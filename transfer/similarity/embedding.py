"""Similarity of inputs: how close the target's embeddings lie to those of the source task, on the bare backbone.

No module is run: all that is needed of one is in its signature. Distances return their negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transfer.similarity.estimator import Estimator
from transfer.similarity.sources import signature_arrays
from transfer.similarity.target import Target
from zoo import Module


class EmbeddingCosine(Estimator):
    """Cosine of the target's centroid with that of the source task, in [-1, 1].

    Source: Vu et al. 2020, aclanthology.org/2020.emnlp-main.635, section 4 (TextEmb).
    """

    name = "embedding:cosine"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        centroid = target.embeddings.mean(axis=0).astype(np.float64)
        sources = np.stack(signature_arrays(modules, "centroid", centroid.shape[0])).astype(np.float64)
        norms = np.linalg.norm(sources, axis=1) * np.linalg.norm(centroid)
        return sources @ centroid / np.maximum(norms, np.finfo(np.float64).tiny)


class EmbeddingDiscrepancy(Estimator):
    """Minus the squared maximum mean discrepancy between target examples and source examples.

    Gaussian kernel; its width is the median distance between target examples, so a module's score does not depend
    on the rest of the zoo. Unbiased estimate: it may come out a little above 0 for equal tasks.
    Source: Gretton et al. 2012, jmlr.org/papers/v13/gretton12a.html, equation 3.
    """

    name = "embedding:mmd"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        ours = target.embeddings.astype(np.float64)
        gamma = _gamma(ours)
        own = _mean_off_diagonal(_kernel(ours, ours, gamma))
        scores = []
        for theirs in signature_arrays(modules, "examples", ours.shape[1]):
            theirs = theirs.astype(np.float64)
            within = _mean_off_diagonal(_kernel(theirs, theirs, gamma))
            scores.append(2 * _kernel(ours, theirs, gamma).mean() - own - within)
        return np.array(scores)


class EmbeddingFrechet(Estimator):
    """Minus the Fréchet distance between two normal distributions with diagonal covariances.

    |m - m'|^2 + sum over coordinates of (s - s')^2, with m the centroids and s the standard deviations.
    Source: Dowson and Landau 1982, doi.org/10.1016/0047-259X(82)90077-X, for diagonal covariances.
    """

    name = "embedding:frechet"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        ours = target.embeddings.astype(np.float64)
        width = ours.shape[1]
        centroids = np.stack(signature_arrays(modules, "centroid", width)).astype(np.float64)
        deviations = np.sqrt(np.stack(signature_arrays(modules, "variance", width)).astype(np.float64))
        between = ((centroids - ours.mean(axis=0)) ** 2).sum(axis=1)
        return -between - ((deviations - ours.std(axis=0)) ** 2).sum(axis=1)


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(left, right) squared Euclidean distances."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    return np.maximum(squares - 2 * left @ right.T, 0)


def _gamma(rows: np.ndarray) -> float:
    """1 / (2 * median distance^2) between different rows; 1/2 where there is no distance to take it from."""
    distances = _squared_distances(rows, rows)[np.triu_indices(len(rows), k=1)]
    positive = distances[distances > 1e-12]
    return 1 / (2 * float(np.median(positive))) if len(positive) else 0.5


def _kernel(left: np.ndarray, right: np.ndarray, gamma: float) -> np.ndarray:
    return np.asarray(np.exp(-gamma * _squared_distances(left, right)))


def _mean_off_diagonal(kernel: np.ndarray) -> float:
    """Mean over pairs of different rows; a single row is taken as a task all of whose examples are that one."""
    n = len(kernel)
    return 1.0 if n == 1 else float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
