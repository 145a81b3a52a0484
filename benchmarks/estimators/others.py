"""Rankings that the estimators are held against: they need the source tasks' own data, or nothing at all.

Each takes a `Ranking` and gives one score per module, higher is closer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.shared_inputs import related
from benchmarks.targets import TARGETS
from transfer.errors import DataError
from transfer.similarity import Target
from transfer.similarity.capture import batch_gradients
from transfer.similarity.switching import over_modules
from transfer.similarity.transferability import labels_of
from transfer.tasks import load_task
from zoo import Module

SOURCE_EXAMPLES = 256  # of a source task, as many as an estimator reads of the target


@dataclass(frozen=True)
class Ranking:
    """What is ranked: modules for a target; `matrix` is module id -> target -> accuracy above scratch."""

    target: Target
    modules: Sequence[Module]
    matrix: dict[str, dict[str, float]]


def target_free(ranking: Ranking) -> np.ndarray:
    """How much more the module gave to the other report targets than all modules did, on average.

    Each target's mean is taken off first, since a module has no row for its own task and its relatives.

    Raises:
        DataError: the matrix is not whole.
    """
    name, table = ranking.target.task.name, ranking.matrix
    others = [target for target in TARGETS["report"] if target != name]
    for target in others:
        kin = related(target)
        lacking = [m.id for m in ranking.modules if m.card.task not in kin and target not in table.get(m.id, {})]
        if lacking:
            raise DataError(
                f"the transfer matrix has no row of {len(lacking)} modules on {target!r}",
                found=f"{lacking[0]}, for example",
                hint="python -m benchmarks.estimators.matrix",
            )
    level = {target: float(np.mean([row[target] for row in table.values() if target in row])) for target in others}
    gains = [
        [table[module.id][target] - level[target] for target in others if target in table.get(module.id, {})]
        for module in ranking.modules
    ]
    return np.array([float(np.mean(values)) for values in gains])


def tfidf(ranking: Ranking) -> np.ndarray:
    """Cosine of the mean TF-IDF vectors of the target's and of the source task's training inputs."""
    texts = {module.card.task: source_texts(module.card.task) for module in ranking.modules}
    ours = list(ranking.target.sample_inputs)
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    vectorizer.fit([*ours, *(text for group in texts.values() for text in group)])

    def mean(group: Sequence[str]) -> np.ndarray:
        vector = np.asarray(vectorizer.transform(group).mean(axis=0)).ravel()
        return vector / max(float(np.linalg.norm(vector)), 1e-12)

    centre = mean(ours)
    return np.array([float(mean(texts[module.card.task]) @ centre) for module in ranking.modules])


def h_score(ranking: Ranking) -> np.ndarray:
    """tr(cov(f)^-1 cov(E[f | y])) of the module's embeddings f, with shrinkage (Bao et al. 2019)."""
    from sklearn.covariance import ledoit_wolf

    target = ranking.target
    labels = labels_of(target, "h-score")

    def score(attached: object, module: Module) -> float:
        features = target.backbone.embed(target.sample_inputs, target.task.fields).double().numpy()
        centred = features - features.mean(axis=0)
        covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
        means = np.stack([centred[labels == label].mean(axis=0) for label in labels])
        between = means.T @ means / len(labels)
        return float((1 - shrinkage) * np.trace(np.linalg.solve(covariance, between)))

    return np.array(over_modules(target.backbone, list(ranking.modules), score))


def fisher(ranking: Ranking) -> np.ndarray:
    """Cosine of diagonal Fisher embeddings at the shared start, each over the sum of the two (after Task2Vec)."""
    ours = fisher_diagonal(ranking.target)
    found = []
    for module in ranking.modules:
        theirs = _source_fisher(ranking.target, module.card.task)
        total = ours + theirs + np.finfo(np.float64).tiny
        left, right = ours / total, theirs / total
        found.append(float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right))))
    return np.array(found)


def fisher_diagonal(target: Target) -> np.ndarray:
    """Mean over the sample of the squared gradient of the loss by the delta's tensors: (parameters,)."""
    total = np.zeros(sum(tensor.numel() for tensor in target.start.values()))
    with target.backbone.use(target.method.direct(), target.start) as attached:
        for gradients, _ in batch_gradients(target.backbone, attached, target.sample, batch_size=1):
            total += np.concatenate([g.double().flatten().cpu().numpy() ** 2 for g in gradients.values()])
    return total / len(target.sample)


_FISHERS: dict[tuple[str, str], np.ndarray] = {}


def _source_fisher(target: Target, name: str) -> np.ndarray:
    key = (name, target.method.method)
    if key not in _FISHERS:
        task = load_task(name, examples=SOURCE_EXAMPLES, seed=0, source="folder")
        _FISHERS[key] = fisher_diagonal(Target(task, target.backbone, target.method, target.start))
    return _FISHERS[key]


@cache
def source_texts(name: str) -> tuple[str, ...]:
    """Training inputs of a source task, at most 256, drawn with seed 0."""
    return tuple(load_task(name, examples=SOURCE_EXAMPLES, seed=0, source="folder").train["input"])


def prepare(name: str, ranking: Ranking) -> None:
    """What a zoo would keep of each source for this ranking, made before its time is taken."""
    for task in {module.card.task for module in ranking.modules}:
        if name == "fisher":
            _source_fisher(ranking.target, task)
        elif name == "tf-idf":
            source_texts(task)


OTHERS: dict[str, Callable[[Ranking], np.ndarray]] = {
    "target-free": target_free,
    "tf-idf": tfidf,
    "h-score": h_score,
    "fisher": fisher,
}
