"""cluster: modules grouped by their weight sketches, one merge for each group, the best on dev taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from transfer.ensembling.deadline import Deadline
from transfer.ensembling.fitted import FitSettings, FittedWeighting, Found, Pool, finite
from transfer.similarity.sketch import SIZE
from transfer.similarity.sources import signature_arrays
from transfer.similarity.target import Target
from zoo import Module


class Cluster(FittedWeighting):
    """k-means (scikit-learn, seeded) over unit-length weight sketches; the plain average of each cluster is measured.

    Measured on dev, or without dev examples on the training examples, which no module has seen; the cluster whose
    members weigh most by similarity comes first, so that a budget leaves out those that promise least.

    Raises:
        SourceError: a module has no weight sketch; says how to make one.
    """

    name: ClassVar[str] = "cluster"

    def check(self, target: Target, modules: Sequence[Module]) -> None:
        super().check(target, modules)
        signature_arrays(modules, "weight_sketch", SIZE)

    def fit(self, pool: Pool, settings: FitSettings, deadline: Deadline) -> Found:
        labels = clusters_of(pool, settings.clusters, settings.seed)
        groups = [np.flatnonzero(labels == label).tolist() for label in sorted(set(labels.tolist()))]
        groups.sort(key=lambda group: (-float(pool.begin[group].mean()), group))
        mixture = pool.mixture
        losses: list[float] = []
        with mixture.acting() as acting:
            for group in groups:
                if losses and deadline.over:
                    break
                merged = mixture.merged(pool.unit(group).to(mixture.base.device))
                losses.append(finite(acting.measured(mixture.named(merged), pool.unseen).calibrated_loss))
        best = int(np.argmin(losses))
        about = {
            "chosen_on": "dev" if pool.dev else "train",
            "chosen": best,
            "clusters": [
                {"modules": [pool.kept[place].id for place in group], "loss": loss}
                for group, loss in zip(groups, [*losses, *[None] * (len(groups) - len(losses))], strict=True)
            ],
        }
        return Found(pool.unit(groups[best]), about, len(losses) < len(groups))


def clusters_of(pool: Pool, clusters: int | None, seed: int) -> np.ndarray:
    """Number of the cluster of each of `pool.kept` (modules,); at most as many as there are different sketches."""
    from sklearn.cluster import KMeans

    sketches = np.stack(signature_arrays(pool.kept, "weight_sketch", SIZE)).astype(np.float64)
    sketches /= np.maximum(np.linalg.norm(sketches, axis=1, keepdims=True), 1e-12)
    wanted = clusters or max(1, round(float(np.sqrt(len(sketches)))))
    different = len(np.unique(sketches, axis=0))
    found = KMeans(n_clusters=min(wanted, different), n_init=10, random_state=seed).fit(sketches)
    return np.asarray(found.labels_)
