"""Transferability of a module's features and answers to the target's labels, without any training.

Both read what the module gives on the target's inputs and ask how well the labels could be told from it by a simple
head on top; the right answer's wording plays no part in it. Labels must mean the same in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.errors import ConfigError
from transfer.similarity.estimator import Estimator
from transfer.similarity.switching import over_modules
from transfer.similarity.target import Target
from zoo import Module

MOST_STEPS = 100  # of the fixed point, which is reached after about ten


class LogEvidence(Estimator):
    """Log evidence per example of a Bayesian linear model from the module's embeddings to the labels (LogME).

    The mean over labels of the evidence for one label against the rest, the precisions of prior and noise chosen to
    make it largest. Embeddings are the mean-pooled hidden states of the inputs with the module on.
    Source: You et al. 2021, arxiv.org/abs/2102.11005, algorithm 2.
    """

    name = "prediction:logme"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        labels = labels_of(target, self.name)

        def evidence(attached: Any, module: Module) -> float:
            texts = target.sample_inputs
            features = target.backbone.embed(texts, target.task.fields).double().numpy()
            return log_evidence(features, labels)

        return np.array(over_modules(target.backbone, modules, evidence))


class ExpectedPrediction(Estimator):
    """Log likelihood per example of the labels when the module's answers are read through P(label | answer) (LEEP).

    The module's answers z are its probabilities of the target's choices. P(label | z) is counted on the same examples,
    so that a module that knows the classes but names them otherwise scores high all the same.
    Source: Nguyen et al. 2020, arxiv.org/abs/2002.12462, equation 2 (there z are the source's labels).
    """

    name = "prediction:leep"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        labels = labels_of(target, self.name)
        answers = [logits.double().softmax(dim=1).numpy() for logits, _ in target.outputs(modules)]
        return np.array([expected_log_likelihood(probabilities, labels) for probabilities in answers])


def log_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """Largest log evidence per example, the mean over the labels that occur.

    Args:
        features: (n, width).
        labels: (n,), integers.
    """
    n, width = features.shape
    classes = np.unique(labels)
    y = (labels[:, None] == classes).astype(np.float64)  # (n, classes)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    s2 = s**2  # (rank,)
    z2 = (u.T @ y) ** 2  # (rank, classes)
    outside = np.maximum((y**2).sum(axis=0) - z2.sum(axis=0), 0.0)  # of y, what no weights reach: (classes,)
    tiny = np.finfo(np.float64).tiny
    a, b = np.ones(len(classes)), np.ones(len(classes))  # precisions of the prior and of the noise
    for _ in range(MOST_STEPS):
        m2, error, gamma = _posterior(s2, z2, outside, a, b)
        ratio = a / b
        a = gamma / np.maximum(m2, 1e-10)
        b = np.maximum(n - gamma, 1e-10) / np.maximum(error, 1e-10)
        if np.all(np.abs(a / b - ratio) <= 1e-3 * ratio):
            break
    m2, error, _ = _posterior(s2, z2, outside, a, b)
    determinant = np.log(a + b * s2[:, None]).sum(axis=0) + (width - len(s2)) * np.log(np.maximum(a, tiny))
    evidence = (
        width * np.log(a) + n * np.log(b) - determinant - b * error - a * m2 - n * np.log(2 * np.pi)
    ) / 2  # (classes,)
    return float(evidence.mean() / n)


def _posterior(
    s2: np.ndarray, z2: np.ndarray, outside: np.ndarray, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared norm of the mean weights, squared error, effective parameters: each (classes,)."""
    shrunk = a + b * s2[:, None]  # (rank, classes)
    m2 = (b**2 * s2[:, None] * z2 / shrunk**2).sum(axis=0)
    error = (z2 * (a / shrunk) ** 2).sum(axis=0) + outside
    return m2, error, (b * s2[:, None] / shrunk).sum(axis=0)


def expected_log_likelihood(answers: np.ndarray, labels: np.ndarray) -> float:
    """LEEP of probabilities (n, answers) for labels (n,): at most 0, and at least minus the labels' entropy."""
    classes = np.unique(labels)
    joint = (labels[:, None] == classes).T.astype(np.float64) @ answers / len(labels)  # (classes, answers)
    given = joint / np.maximum(joint.sum(axis=0), np.finfo(np.float64).tiny)  # P(label | answer)
    found = (answers @ given.T)[np.arange(len(labels)), np.searchsorted(classes, labels)]
    return float(np.log(np.maximum(found, np.finfo(np.float64).tiny)).mean())


def labels_of(target: Target, name: str) -> np.ndarray:
    """Labels of the sample, (n,).

    Raises:
        ConfigError: the choices differ from row to row, so that a label's number means nothing.
    """
    choices = target.sample[0].choices
    if len(choices) < 2 or any(row.choices != choices for row in target.sample):
        raise ConfigError(
            f"{name} needs labels that mean the same in every row, and the choices of task {target.task.name!r} differ",
            found="multiple choice, or no choices at all",
            hint="--estimator prediction:loss, which any task has",
        )
    return np.array([row.label for row in target.sample])
