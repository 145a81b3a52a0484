"""The calibrated loss: the lowest that one factor on all scores gives, and blind to how large they are."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from transfer.training import calibrating
from transfer.training.calibrating import calibrated_losses
from transfer.training.measuring import Measured


def drawn(seed=0, n=60, choices=4):
    generator = np.random.default_rng(seed)
    labels = generator.integers(choices, size=n)
    scores = generator.normal(size=(n, choices))
    scores[np.arange(n), labels] += 1.0
    return scores, labels


def test_examples_of_the_page():
    assert doctest.testmod(calibrating).failed == 0


def test_no_factor_of_a_grid_is_better():
    scores, labels = drawn()
    scores *= 5
    found, factor = calibrated_losses(scores, labels)
    assert 1 / 64 < factor < 1
    grid = np.exp(np.linspace(math.log(1 / 64), 0.0, 400))

    def loss(scale):
        odds = np.exp(scale * scores)
        share = math.log(scale) ** 2 / 8 / len(labels)
        return log_loss(labels, odds / odds.sum(axis=1, keepdims=True), labels=range(4)) + share

    assert found.mean() == pytest.approx(min(map(loss, grid)), abs=1e-5)
    assert found.mean() == pytest.approx(loss(factor), abs=1e-9)


def test_the_size_of_the_scores_hardly_counts_where_there_are_many_examples():
    scores, labels = drawn(n=4000)
    small, large = (calibrated_losses(scores * scale, labels) for scale in (5.0, 20.0))
    assert small[0] == pytest.approx(large[0], abs=1e-2)
    assert small[1] / large[1] == pytest.approx(4, rel=0.02)
    assert small[0].mean() < large[0].mean() < small[0].mean() + 1e-3


def test_scores_that_are_not_sure_enough_are_left_alone():
    scores, labels = drawn()
    sure = np.eye(4)[labels]  # all right, and every larger factor would be better
    for given in (scores / 100, sure):
        found = measured(given, labels)
        assert calibrated_losses(given, labels)[1] == 1
        assert found.calibrated_losses == pytest.approx(found.losses)


def test_a_choice_that_a_row_lacks_does_not_count():
    scores, labels = drawn(choices=3)
    wider = np.concatenate([scores, np.full((len(scores), 2), -np.inf)], axis=1)
    assert calibrated_losses(wider, labels)[0] == pytest.approx(calibrated_losses(scores, labels)[0])


def test_noise_loses_no_more_than_guessing_and_the_cost_of_the_factor():
    scores, labels = drawn()
    guessing, cost = math.log(4), math.log(64) ** 2 / 8
    assert guessing < calibrated_losses(-20 * scores, labels)[0].mean() < guessing + 0.3 + cost / 60
    assert calibrated_losses(np.zeros_like(scores), labels)[0] == pytest.approx(np.full(60, guessing))


def test_the_best_of_many_that_are_noise_is_hardly_better_than_guessing():
    generator = np.random.default_rng(3)
    labels = generator.integers(2, size=32)
    found = [calibrated_losses(generator.normal(size=(32, 2)) * 20, labels)[0].mean() for _ in range(8)]
    plain = [measured(generator.normal(size=(32, 2)) * 20, labels).loss for _ in range(8)]
    assert math.log(2) - 0.02 < min(found) < max(found) < min(plain)


def test_a_step_whose_scores_only_got_larger_is_no_worse():
    scores, labels = drawn()
    early, late = (measured(scores * scale, labels) for scale in (2.0, 10.0))
    assert late.loss > 2 * early.loss
    assert early.calibrated_loss < late.calibrated_loss < early.calibrated_loss + 0.02
    assert late.accuracy == early.accuracy


def test_where_there_is_nothing_to_choose_it_is_the_loss():
    alone = Measured(np.array([1.0, 2.0]), predicted=np.zeros(2), labels=np.zeros(2, int), scores=np.zeros((2, 1)))
    assert alone.calibrated_losses.tolist() == [1.0, 2.0]
    diverged = Measured(np.array([1.0, np.nan]), np.zeros(2), np.zeros(2, int), scores=np.full((2, 2), np.nan))
    assert np.isnan(diverged.calibrated_loss)


def measured(scores, labels):
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    losses = -np.log(odds[np.arange(len(labels)), labels] / odds.sum(axis=1))
    return Measured(losses=losses, predicted=scores.argmax(axis=1), labels=labels, scores=scores)
