"""Weights by hand, and what holds for any scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.ensembling import WEIGHTINGS, weigh
from transfer.ensembling.fitted import fitted
from transfer.errors import ConfigError, UnknownNameError
from transfer.similarity import Scores

values = st.floats(-1e6, 1e6)
tables = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), values, min_size=1, max_size=8)
temperatures = st.floats(1e-3, 1e3)
BY_SCORES = [name for name in WEIGHTINGS.names() if fitted(name) is None]  # the others look at examples


def test_two_scores_by_hand():
    # Standardised they are 1 and -1: 1 / (1 + exp(-2 / 0.5)) = 1 / (1 + e^-4).
    weights = weigh({"near": 7.0, "far": 3.0}, temperature=0.5)
    assert weights["near"] == pytest.approx(1 / (1 + math.exp(-4)))
    assert weights["far"] == pytest.approx(1 / (1 + math.exp(4)))


def test_three_scores_by_hand():
    # 0, 1, 2: mean 1, variance 2/3, so they become -s, 0, s with s = sqrt(3/2).
    s = math.sqrt(1.5)
    exps = [math.exp(-s / 2), 1.0, math.exp(s / 2)]
    weights = weigh({"a": 0.0, "b": 1.0, "c": 2.0}, temperature=2.0)
    assert list(weights.values()) == pytest.approx([value / sum(exps) for value in exps])


def test_scores_are_standardised_over_all_and_then_cut():
    # With -s and s left out of 0, 1, 2 the rest would have no spread; standardised before, b and c differ by s.
    s = math.sqrt(1.5)
    weights = weigh({"a": 0.0, "b": 1.0, "c": 2.0}, temperature=1.0, top_k=2)
    assert weights["a"] == 0
    assert weights["c"] == pytest.approx(1 / (1 + math.exp(-s)))


def test_the_unit_of_the_scores_does_not_matter():
    small = weigh({"a": 0.001, "b": 0.002, "c": 0.0045})
    large = weigh({"a": 100.0, "b": 101.0, "c": 103.5})
    assert list(small.values()) == pytest.approx(list(large.values()))


def test_a_low_temperature_keeps_the_closest():
    assert weigh({"a": 0.9, "b": 0.1}, temperature=1e-300) == {"a": 1.0, "b": 0.0}


def test_scores_without_spread_give_uniform_weights():
    # 0.1 has no exact float: the computed deviation of equal scores is above 0 by rounding.
    assert weigh(dict.fromkeys("abcde", 0.1), temperature=1e-6) == dict.fromkeys("abcde", 0.2)
    assert weigh({"only": -3.0}) == {"only": 1.0}


def test_uniform_and_best():
    scores = {"a": 1.0, "b": 3.0, "c": 2.0}
    assert weigh(scores, "uniform", top_k=2) == {"a": 0.0, "b": 0.5, "c": 0.5}
    assert weigh(scores, "best") == {"a": 0.0, "b": 1.0, "c": 0.0}


def test_of_equal_scores_the_first_id_is_closer():
    assert weigh({"b": 1.0, "a": 1.0, "c": 0.0}, "best") == {"b": 0.0, "a": 1.0, "c": 0.0}
    # The two that are kept are equal, but the scores told them from the third.
    assert weigh({"b": 1.0, "a": 1.0, "c": 0.0}, "best", top_k=2) == {"b": 0.0, "a": 1.0, "c": 0.0}


@pytest.mark.parametrize("how", BY_SCORES)
def test_scores_without_spread_are_uniform_whatever_the_weighting(how):
    assert weigh({"b": 1.0, "a": 1.0}, how) == {"b": 0.5, "a": 0.5}
    assert weigh(dict.fromkeys("abcd", 0.1), how, top_k=2) == {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}


def test_scores_of_an_estimator():
    scores = Scores(["x", "y"], np.array([0.0, 1.0]), "embedding:cosine")
    assert list(weigh(scores)) == ["x", "y"]


@pytest.mark.parametrize("how", BY_SCORES)
@given(table=tables, temperature=temperatures, top_k=st.none() | st.integers(1, 10))
def test_weights_are_at_least_0_and_sum_to_1(how, table, temperature, top_k):
    weights = weigh(table, how, temperature, top_k)
    assert list(weights) == list(table)
    assert all(weight >= 0 for weight in weights.values())
    assert sum(weights.values()) == pytest.approx(1)
    if top_k is not None:
        assert sum(weight > 0 for weight in weights.values()) <= top_k


@pytest.mark.parametrize("how", BY_SCORES)
@given(table=tables, temperature=temperatures, data=st.data())
def test_order_does_not_matter_to_the_last_bit(how, table, temperature, data):
    shuffled = dict(data.draw(st.permutations(list(table.items()))))
    assert weigh(shuffled, how, temperature) == weigh(table, how, temperature)


@given(table=tables, temperature=temperatures)
def test_closer_modules_weigh_no_less(table, temperature):
    weights = weigh(table, temperature=temperature)
    ordered = sorted(table, key=lambda name: table[name])
    assert all(weights[low] <= weights[high] for low, high in itertools.pairwise(ordered))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_any_finite_scores_can_be_weighed(scores):
    weights = weigh({str(number): score for number, score in enumerate(scores)})
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "names"),
    [({"temperature": 0.0}, "temperature"), ({"temperature": math.nan}, "temperature"), ({"top_k": 0}, "top_k")],
)
def test_settings_outside_their_range(settings, names):
    with pytest.raises(ConfigError, match=names):
        weigh({"a": 1.0}, **settings)


def test_scores_that_cannot_be_weighed():
    with pytest.raises(ConfigError, match="no scores"):
        weigh({})
    with pytest.raises(ConfigError, match="'b' is nan"):
        weigh({"a": 1.0, "b": math.nan})


def test_unknown_weighting_suggests_the_close_name():
    with pytest.raises(UnknownNameError, match="did you mean 'softmax'"):
        weigh({"a": 1.0}, "soft-max")


def test_every_block_is_weighed_as_its_scores_alone_would_be():
    blocks = np.array([[3.0, -1.0], [1.0, 0.5], [2.0, 2.0]])
    scores = Scores(["a", "b", "c"], blocks.sum(axis=1), "gradient:grand", blocks=blocks)
    for how, temperature, top_k in (("softmax", 2.0, None), ("softmax", 0.5, 1), ("uniform", 0.5, 2)):
        found = weigh(scores, how, temperature, top_k, per_block=True)
        for number, column in enumerate(blocks.T):
            alone = weigh(dict(zip("abc", column.tolist(), strict=True)), how, temperature, top_k)
            assert {name: weights[number] for name, weights in found.items()} == alone
