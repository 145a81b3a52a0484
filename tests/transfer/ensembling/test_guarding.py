"""The verdict: by hand, and on tiny backbones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from transfer.deltas import METHODS
from transfer.ensembling import Verdict, guard
from transfer.ensembling.verdict import compare, joint_reach
from transfer.errors import DataError, DivergedError
from transfer.training import TuneSettings, tune

losses = st.lists(st.floats(0, 20), min_size=2, max_size=20)


def test_interval_by_hand():
    # Differences -3, -1: mean -2, standard deviation sqrt(2), error 1; t(0.95, 1) = tan(0.45 pi) = 6.3138.
    found = compare([1.0, 2.0], [4.0, 3.0])
    assert found["difference"] == -2
    assert found["interval"] == pytest.approx((-2 - math.tan(0.45 * math.pi), -2 + math.tan(0.45 * math.pi)))
    assert found["outcome"] == "unclear"


def test_outcomes():
    low, high = np.linspace(0.1, 0.2, 20), np.linspace(0.9, 0.8, 20)
    assert compare(low, high)["outcome"] == "helps"
    assert compare(high, low)["outcome"] == "hurts"
    assert compare(low, low) == {"outcome": "unclear", "difference": 0.0, "interval": (0.0, 0.0)}


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_intervals_of_several_hold_at_once(alike):
    """Eight candidates that are as good as scratch: the best is called better in one run of twenty, not in five."""
    generator = np.random.default_rng(4)
    together = single = 0
    for _ in range(300):
        shared = generator.normal(size=(24, 1))
        apart = math.sqrt(alike) * shared + math.sqrt(1 - alike) * generator.normal(size=(24, 8))
        reach = joint_reach(apart)
        zeros = np.zeros(24)
        together += any(compare(column, zeros, reach)["outcome"] == "helps" for column in apart.T)
        single += any(compare(column, zeros)["outcome"] == "helps" for column in apart.T)
    assert together <= 0.08 * 300  # 0.05 and two standard errors
    assert single > together


def test_intervals_of_several_on_two_examples_are_those_of_bonferroni():
    assert joint_reach(np.array([[1.0, 2.0], [3.0, -1.0]])) == pytest.approx(math.tan(0.475 * math.pi))


@given(ours=losses, data=st.data())
def test_swapping_the_sides_turns_the_verdict(ours, data):
    theirs = data.draw(st.lists(st.floats(0, 20), min_size=len(ours), max_size=len(ours)))
    there, back = compare(ours, theirs), compare(theirs, ours)
    turned = {"helps": "hurts", "hurts": "helps", "unclear": "unclear"}
    assert back["outcome"] == turned[there["outcome"]]
    assert back["difference"] == -there["difference"]


def test_a_verdict_is_the_same_after_json():
    verdict = Verdict(
        outcome="helps",
        steps=20,
        n_dev=3,
        difference=-0.5,
        interval=(-0.6, -0.4),
        losses={"initialization": 0.5, "scratch": 1.0},
        accuracies={"initialization": 0.9, "scratch": 0.5},
        licences=("CC BY 4.0", "MIT"),
        seconds=1.5,
    )
    assert Verdict.from_dict(json.loads(json.dumps(verdict.as_dict()))) == verdict


def test_the_text_has_steps_numbers_and_licences():
    verdict = Verdict(
        outcome="helps",
        steps=20,
        n_dev=64,
        difference=-0.12,
        interval=(-0.16, -0.08),
        losses={"initialization": 0.5, "scratch": 0.62},
        licences=("CC BY 4.0", "MIT"),
    )
    assert verdict.text == (
        "it helps after 20 steps: calibrated dev loss 0.500 from here, 0.620 from scratch (difference -0.120, "
        "90% interval -0.160 to -0.080, 64 dev examples); merged from sources under CC BY 4.0 | MIT"
    )


@pytest.fixture(scope="module")
def world():
    backbone = tiny.tiny_backbone("bert")
    method = METHODS.get("lora")()
    train, dev = (backbone.encode(tiny.sentiment_rows(n, seed)) for n, seed in ((32, 0), (24, 1)))
    return backbone, method, train, dev, method.draw(backbone.model)


def test_a_trained_start_helps_and_an_inverted_one_hurts(world):
    backbone, method, train, _, scratch = world
    dev = train  # a tiny random model learns these by heart
    trained = tune(backbone, method, train, tensors=scratch, settings=TuneSettings(steps=60, learning_rate=2e-2))
    helps = guard(backbone, method, train, dev, start=trained.tensors, scratch=scratch, steps=2)
    assert helps.outcome == "helps"
    assert helps.difference < 0
    assert "after 2 steps" in helps.text
    wrong = {n: -t if n.endswith("lora_B") else t for n, t in trained.tensors.items()}
    hurts = guard(backbone, method, train, dev, start=wrong, scratch=scratch, steps=2)
    assert hurts.outcome == "hurts"
    assert "scratch is kept in its place" in hurts.text
    assert backbone.delta is None


@pytest.mark.parametrize("name", METHODS.names())
def test_scratch_against_itself_is_unclear_to_the_last_bit(name, world):
    backbone, _, train, dev, _ = world
    method = METHODS.get(name)()
    scratch = method.draw(backbone.model)
    verdict = guard(backbone, method, train, dev, start=scratch, scratch=scratch, steps=3, seed=5)
    assert verdict.outcome == "unclear"
    assert verdict.difference == 0
    assert verdict.interval == (0, 0)


def test_a_scratch_tune_made_before_gives_the_same_verdict(world):
    backbone, method, train, dev, scratch = world
    start = method.draw(backbone.model, seed=3)
    once = tune(backbone, method, train, tensors=scratch, settings=TuneSettings(steps=3, batch_size=8, seed=1))
    given_, made = (
        guard(backbone, method, train, dev, start=start, scratch=scratch, scratch_tune=tuned, **settings)
        for tuned, settings in ((once, {}), (None, {"steps": 3, "batch_size": 8, "seed": 1}))
    )
    assert given_.losses == made.losses
    assert given_.steps == 3


def test_curves_are_measured_on_the_way_and_change_nothing(world):
    backbone, method, train, dev, scratch = world
    start = method.draw(backbone.model, seed=3)
    once = tune(backbone, method, train, tensors=scratch, settings=TuneSettings(steps=4))
    plain, drawn = (
        guard(backbone, method, train, dev, start=start, scratch=scratch, scratch_tune=once, curve_every=every)
        for every in (None, 2)
    )
    assert plain.curves is None
    assert {name: [row["step"] for row in rows] for name, rows in drawn.curves.items()} == {
        "initialization": [0, 2, 4],
        "scratch": [0, 2, 4],
    }
    assert drawn.losses == plain.losses
    assert drawn.curves["scratch"][-1]["calibrated"] == pytest.approx(drawn.losses["scratch"], rel=1e-6)


def test_without_dev_nothing_is_tuned_and_the_verdict_says_why(world):
    backbone, method, train, _, scratch = world
    verdict = guard(backbone, method, train, [], start=scratch, scratch=scratch, steps=10**6)
    assert (verdict.outcome, verdict.n_dev) == ("unclear", 0)
    assert "no dev examples" in verdict.text


def test_without_training_examples_it_is_an_error(world):
    backbone, method, _, dev, scratch = world
    with pytest.raises(DataError):
        guard(backbone, method, [], dev, start=scratch, scratch=scratch)


def test_the_global_random_state_is_left_alone(world):
    backbone, method, train, dev, scratch = world
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    guard(backbone, method, train, dev, start=scratch, scratch=scratch, steps=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("size", [math.inf, 1e30])
def test_an_initialization_from_which_tuning_diverges_hurts(size, world):
    backbone, method, train, dev, scratch = world
    start = {name: torch.full_like(tensor, size) for name, tensor in scratch.items()}
    verdict = guard(backbone, method, train, dev, start=start, scratch=scratch, steps=1)
    assert (verdict.outcome, verdict.difference, verdict.n_dev) == ("hurts", None, 24)
    assert verdict.text == (
        "it hurts after 1 steps: tuning from it diverged, tuning from scratch did not; scratch is kept in its place"
    )
    assert Verdict.from_dict(json.loads(json.dumps(verdict.as_dict(), allow_nan=False))) == verdict
    assert backbone.delta is None


def test_a_scratch_tune_that_diverges_is_an_error(world):
    backbone, method, train, dev, scratch = world
    wild = {name: torch.full_like(tensor, math.inf) for name, tensor in scratch.items()}
    with pytest.raises(DivergedError):
        guard(backbone, method, train, dev, start=scratch, scratch=wild, steps=1)
