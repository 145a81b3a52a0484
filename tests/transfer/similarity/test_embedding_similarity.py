"""The embedding family against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from transfer.similarity.embedding import EmbeddingCosine, EmbeddingDiscrepancy, EmbeddingFrechet
from transfer.similarity.hidden import EXAMPLES, HiddenCosine, _evenly
from zoo import Signature


def target(rows):
    return SimpleNamespace(embeddings=np.array(rows, dtype=np.float32))


def source(name, **arrays):
    return SimpleNamespace(id=name, signature=Signature(**arrays), card=SimpleNamespace(task=name))


def from_rows(name, rows):
    rows = np.array(rows, dtype=np.float32)
    return source(name, centroid=rows.mean(axis=0), variance=rows.var(axis=0), examples=rows)


def test_cosine_of_centroids_by_hand():
    ours = target([[1, 0], [1, 2]])  # centroid (1, 1)
    modules = [source("same", centroid=[2, 2]), source("aside", centroid=[1, 0]), source("opposite", centroid=[-3, -3])]
    np.testing.assert_allclose(EmbeddingCosine().score(ours, modules), [1, math.sqrt(0.5), -1], atol=1e-6)


def test_frechet_by_hand():
    ours = target([[0, 0], [2, 4]])  # mean (1, 2), deviations (1, 2)
    modules = [
        source("same", centroid=[1, 2], variance=[1, 4]),
        source("moved", centroid=[4, 6], variance=[1, 4]),
        source("wider", centroid=[1, 2], variance=[9, 4]),
    ]
    np.testing.assert_allclose(EmbeddingFrechet().score(ours, modules), [0, -25, -4], atol=1e-6)


def test_frechet_is_the_general_formula_for_diagonal_covariances():
    random = np.random.default_rng(0)
    rows, centroid, variance = random.normal(size=(9, 4)), random.normal(size=4), random.uniform(0.1, 2, size=4)
    ours, theirs = np.diag(rows.var(axis=0)), np.diag(variance)
    cross = np.diag(np.sqrt(np.diag(ours) * np.diag(theirs)))  # the root of the product, both being diagonal
    distance = ((rows.mean(axis=0) - centroid) ** 2).sum() + np.trace(ours + theirs - 2 * cross)
    found = EmbeddingFrechet().score(target(rows), [source("a", centroid=centroid, variance=variance)])
    assert found[0] == pytest.approx(-distance, rel=1e-5)


def test_mmd_by_hand():
    """Two target examples at distance 1, so the kernel is exp(-d^2 / 2)."""
    ours = target([[0, 0], [1, 0]])
    found = EmbeddingDiscrepancy().score(ours, [from_rows("a", [[0, 0], [0, 2]])])
    within_ours, within_theirs = math.exp(-1 / 2), math.exp(-4 / 2)
    between = (1 + math.exp(-4 / 2) + math.exp(-1 / 2) + math.exp(-5 / 2)) / 4
    assert found[0] == pytest.approx(2 * between - within_ours - within_theirs, rel=1e-6)


def test_mmd_against_loops_over_pairs():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(7, 3)), random.normal(size=(5, 3)) + 1
    distances = [np.linalg.norm(x[i] - x[j]) ** 2 for i in range(7) for j in range(i)]
    gamma = 1 / (2 * np.median(distances))

    def k(a, b):
        return math.exp(-gamma * np.linalg.norm(a - b) ** 2)

    squared = (
        sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
        + sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
        - 2 * sum(k(a, b) for a in x for b in y) / 35
    )
    assert EmbeddingDiscrepancy().score(target(x), [from_rows("y", y)])[0] == pytest.approx(-squared, rel=1e-5)


@pytest.mark.parametrize("estimator", [EmbeddingCosine(), EmbeddingDiscrepancy(), EmbeddingFrechet()])
def test_a_task_like_the_target_is_closest(estimator):
    random = np.random.default_rng(2)

    def draw(centre):
        rows = random.normal(size=(40, 8)) * 0.3 + centre
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    here, there = np.eye(8)[0], np.eye(8)[1]
    scores = estimator.score(target(draw(here)), [from_rows("near", draw(here)), from_rows("far", draw(there))])
    assert scores[0] > scores[1]


@pytest.mark.parametrize("estimator", [EmbeddingCosine(), EmbeddingDiscrepancy(), EmbeddingFrechet()])
def test_a_single_target_example_and_equal_examples_are_enough(estimator):
    for rows in ([[1, 0]], [[1, 0], [1, 0]]):
        scores = estimator.score(target(rows), [from_rows("near", [[1, 0]]), from_rows("far", [[0, 1], [0, 0.9]])])
        assert np.isfinite(scores).all()
        assert scores[0] > scores[1]


def test_hidden_states_are_of_examples_of_every_label_where_a_file_is_sorted():
    backbone = tiny.tiny_backbone("bert")
    rows = sorted(backbone.encode(tiny.sentiment_rows(200, 3)), key=lambda row: row.label)
    chosen = _evenly(rows, EXAMPLES)
    assert len(chosen) == len({id(row) for row in chosen}) == EXAMPLES
    assert abs(sum(row.label for row in chosen) - EXAMPLES / 2) <= 3
    assert len(_evenly(rows[:5], EXAMPLES)) == 5


def test_hidden_states_of_the_targets_own_tune_are_the_closest(world, toys):
    backbone, method, modules = world()
    ours = toys.target(backbone, modules)
    own = toys.module(backbone, method, ours.scratch_tune().tensors, "own", start=ours.start)
    *others, itself = HiddenCosine().score(ours, [*modules, own])
    assert itself == pytest.approx(1, abs=1e-6)
    assert max(others) < 1 - 1e-4


def test_hidden_states_by_hand(world, toys):
    """The cosine of what each block gives for an example, over its tokens end to end; the mean over all of both."""
    backbone, method, modules = world()
    ours = toys.target(backbone, modules, n=4)

    def states(tensors):
        found = []
        with backbone.use(method.direct(), tensors), torch.no_grad():
            for row in ours.sample:
                ids = torch.tensor([row.input])
                given = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
                found.append([hidden.flatten().double() for hidden in given.hidden_states[1:]])
        return found

    tuned = states(ours.scratch_tune().tensors)
    scores, blocks = HiddenCosine().score_blocks(ours, modules)
    for module, score, row in zip(modules, scores, blocks, strict=True):
        theirs = states(module.tensors(dtype=torch.float32))
        cosines = np.array(
            [[float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(x, y, strict=True)]
             for x, y in zip(tuned, theirs, strict=True)]
        )  # fmt: skip
        assert score == pytest.approx(cosines.mean(), abs=1e-5)
        np.testing.assert_allclose(row, cosines.mean(axis=0), atol=1e-5)
