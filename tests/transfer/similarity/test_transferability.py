"""LogME and LEEP against the densities they stand for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from transfer.errors import ConfigError
from transfer.similarity.transferability import (
    ExpectedPrediction,
    LogEvidence,
    expected_log_likelihood,
    log_evidence,
)


def features_and_labels(n=30, width=4, classes=2, signal=1.0, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    features = draw.normal(size=(n, width))
    features[:, 0] += signal * labels
    return features, labels


@pytest.mark.parametrize("width", [4, 40])
def test_evidence_is_the_best_marginal_density_of_the_labels(width):
    """y ~ N(0, F F^T / a + I / b), the density written out in full, its precisions found by a search."""
    features, labels = features_and_labels(width=width)

    def loss(logs, y):
        a, b = np.exp(logs)
        covariance = features @ features.T / a + np.eye(len(y)) / b
        return -multivariate_normal.logpdf(y, np.zeros(len(y)), covariance)

    best = [
        -minimize(loss, np.zeros(2), args=((labels == label).astype(float),), method="Nelder-Mead").fun / len(labels)
        for label in (0, 1)
    ]
    assert log_evidence(features, labels) == pytest.approx(np.mean(best), rel=2e-3)


def test_features_that_tell_the_labels_have_more_evidence():
    found = [log_evidence(*features_and_labels(signal=signal, n=100, classes=3)) for signal in (0.0, 1.0, 4.0)]
    assert found[0] < found[1] < found[2]


def test_leep_by_hand():
    answers = np.array([[0.75, 0.25], [0.5, 0.5]])
    labels = np.array([0, 1])
    # P(y=0 | z): .75 / 1.25 = .6 and .25 / .75 = 1/3; P(y=1 | z): .4 and 2/3
    expected = np.log(0.75 * 0.6 + 0.25 / 3) + np.log(0.5 * 0.4 + 0.5 * 2 / 3)
    assert expected_log_likelihood(answers, labels) == pytest.approx(expected / 2, rel=1e-12)


def test_leep_does_not_mind_other_names_for_the_classes():
    answers = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.1, 0.1, 0.8], [0.7, 0.3, 0]])
    labels = np.array([0, 1, 2, 0])
    assert expected_log_likelihood(answers[:, [1, 2, 0]], labels) == pytest.approx(
        expected_log_likelihood(answers, labels), rel=1e-12
    )


def test_answers_that_say_nothing_score_the_entropy_of_the_labels():
    labels = np.array([0, 0, 0, 1])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert expected_log_likelihood(np.full((4, 3), 1 / 3), labels) == pytest.approx(-entropy, rel=1e-12)


@pytest.mark.parametrize("estimator", [LogEvidence(), ExpectedPrediction()])
@pytest.mark.parametrize("choices", [[[[1], [2]], [[3], [4]]], [[[1]], [[1]]]])
def test_labels_without_a_lasting_meaning_are_refused(estimator, choices):
    sample = [SimpleNamespace(choices=c, label=0) for c in choices]
    target = SimpleNamespace(sample=sample, task=SimpleNamespace(name="quiz"))
    with pytest.raises(ConfigError, match=r"labels that mean the same in every row.*'quiz'"):
        estimator.score(target, [SimpleNamespace(id="m")])


def test_a_module_that_separates_the_target_has_more_evidence(world, toys):
    """The hidden states of one module are overwritten by noise: its evidence must be lower."""
    backbone, method, modules = world("bert", "adapter")
    target = toys.target(backbone, modules, "adapter", n=24)
    noise = {
        name: 30 * torch.randn(t.shape, generator=torch.Generator().manual_seed(0)) for name, t in target.start.items()
    }
    spoiled = toys.module(backbone, method, noise, "spoiled", start=target.start)
    bare = toys.module(backbone, method, target.start, "bare", start=target.start)
    for estimator in (LogEvidence(), ExpectedPrediction()):
        scores = estimator.score(target, [bare, spoiled])
        assert scores[0] > scores[1], estimator.name
