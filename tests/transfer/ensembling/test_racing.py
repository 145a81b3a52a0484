"""Successive halving over starts: the best wins, scratch is never beaten by what is worse, time is kept."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import tiny
from datasets import Dataset

from transfer.deltas import METHODS
from transfer.deltas.delta import Delta
from transfer.ensembling import racing
from transfer.ensembling.racing import Split, race, splits_of
from transfer.ensembling.standings import SCRATCH, Race, Runner
from transfer.ensembling.verdict import compare
from transfer.errors import ConfigError, DataError, DeltaError, DivergedError, SourceError
from transfer.tasks import Task
from transfer.training import TuneSettings, measure, tune
from zoo.errors import UnknownModuleError


@pytest.fixture(scope="module")
def world():
    """A tiny backbone, its data and starts: scratch, one that was trained on the data, and its opposite."""
    backbone = tiny.tiny_backbone("bert")
    method = METHODS.get("lora")()
    rows = backbone.encode(tiny.sentiment_rows(24, 0))
    scratch = method.draw(backbone.model)
    settings = TuneSettings(steps=60, learning_rate=2e-2)
    trained = tune(backbone, method, rows, tensors=scratch, settings=settings).tensors
    wrong = {name: -t if name.endswith("lora_B") else t for name, t in trained.items()}
    deltas = {name: Delta(method, dict(t)) for name, t in [(SCRATCH, scratch), ("trained", trained), ("wrong", wrong)]}
    return backbone, rows, deltas


def given(deltas, *names):
    return {name: lambda split, name=name: deltas[name] for name in names}


def ticking(seconds):
    """A clock that goes on by so much with every look at it."""
    counter = itertools.count()
    return lambda: next(counter) * seconds


def test_the_start_that_was_trained_on_the_data_wins(world):
    backbone, rows, deltas = world
    found = race(backbone, given(deltas, "wrong", SCRATCH, "trained"), [Split(rows, rows)], rungs=(2, 4), seed=1)
    assert found.chosen == "trained"
    assert found.steps == 4
    assert not found.ran_out
    assert found.against_scratch("trained")["outcome"] == "helps"
    assert backbone.delta is None


def test_scratch_is_chosen_over_what_is_worse(world):
    backbone, rows, deltas = world
    found = race(backbone, given(deltas, SCRATCH, "wrong"), [Split(rows, rows)], rungs=(2,))
    assert found.chosen == SCRATCH
    assert found.against_scratch("wrong")["outcome"] == "hurts"


def test_what_is_said_of_the_best_makes_up_for_its_having_been_chosen():
    generator = np.random.default_rng(0)
    losses = {name: {5: generator.normal(size=32)} for name in (SCRATCH, *"abcdef")}
    runners = {name: Runner(name, losses=found) for name, found in losses.items()}
    alone = Race("a", {name: runners[name] for name in (SCRATCH, "a")}, 5, False, False)
    found = Race("a", runners, 5, False, False)
    assert found.measured == list("abcdef")
    for name in found.measured:
        low, high = found.against_scratch(name)["interval"]
        apart = losses[name][5] - losses[SCRATCH][5]
        reach = (high - low) / 2 / (apart.std(ddof=1) / math.sqrt(32))
        assert (high + low) / 2 == pytest.approx(apart.mean())
        assert 2.1 < reach < 2.6  # one comparison has 1.70, six independent ones 2.51
    assert alone.against_scratch("a") == compare(losses["a"][5], losses[SCRATCH][5])


def test_scratch_is_chosen_over_its_equal(world):
    backbone, rows, deltas = world
    found = race(
        backbone, {"copy": lambda split: deltas[SCRATCH], **given(deltas, SCRATCH)}, [Split(rows, rows)], rungs=(2,)
    )
    assert found.chosen == SCRATCH
    assert found.against_scratch("copy") == {"outcome": "unclear", "difference": 0.0, "interval": (0.0, 0.0)}


def test_half_drop_out_after_each_tune_and_scratch_stays(world):
    backbone, rows, deltas = world
    names = {f"copy-{i}": lambda split: deltas["wrong"] for i in range(3)}
    found = race(backbone, {**given(deltas, SCRATCH, "trained"), **names}, [Split(rows, rows)], rungs=(1, 2, 3))
    steps = {name: found.runners[name].steps for name in found.runners}
    assert steps == {SCRATCH: 3, "trained": 3, "copy-0": 2, "copy-1": 1, "copy-2": 1}


def test_losses_are_those_of_the_best_step_of_a_plain_tune(world):
    backbone, rows, deltas = world
    split = Split(rows[:16], rows[16:])
    found = race(backbone, given(deltas, SCRATCH, "trained"), [split], rungs=(5,), seed=3)
    settings = TuneSettings(steps=5, seed=3, eval_every=1)
    delta = deltas["trained"]
    best = tune(backbone, delta.method, split.train, tensors=delta.tensors, settings=settings, dev=split.held_out)
    with backbone.use(delta.method, best.tensors):
        expected = measure(backbone, split.held_out).calibrated_losses
    np.testing.assert_allclose(found.runners["trained"].losses[5], expected, rtol=1e-6)


def test_the_seed_decides_the_outcome(world):
    backbone, rows, deltas = world
    splits = [Split(rows[:12], rows[12:]), Split(rows[12:], rows[:12])]
    first, second = (
        race(backbone, given(deltas, SCRATCH, "trained", "wrong"), splits, rungs=(2,), seed=2) for _ in range(2)
    )
    strip = [[{**row, "seconds": 0} for row in found.rows()] for found in (first, second)]
    assert strip[0] == strip[1]
    assert first.cross_validated


def test_a_candidate_that_cannot_be_made_is_left_out_with_the_reason(world):
    backbone, rows, deltas = world

    def no(split):
        raise DeltaError("ranks differ", found="4 and 8")

    def gone(split):
        raise UnknownModuleError("no module 'films-lora'")

    names = {**given(deltas, SCRATCH, "trained"), "broken": no, "gone": gone}
    found = race(backbone, names, [Split(rows, rows)], rungs=(2,))
    assert found.chosen == "trained"
    assert {row["candidate"]: row["why_not"] for row in found.rows()[2:]} == {
        "broken": "ranks differ",
        "gone": "no module 'films-lora'",
    }


def test_half_of_the_budget_is_for_tuning(world):
    """Each candidate takes 3 of 10 seconds to make; the third is not begun, the two there are still tuned."""
    backbone, rows, deltas = world
    now = [0.0]

    def slowly(name):
        def make(split):
            now[0] += 3.0
            return deltas[name]

        return make

    names = {**given(deltas, SCRATCH), "trained": slowly("trained"), "wrong": slowly("wrong"), "late": slowly("wrong")}
    found = race(backbone, names, [Split(rows, rows)], rungs=(2,), budget=10.0, clock=lambda: now[0])
    assert found.runners["late"].why_not == "the budget ran out"
    assert found.ran_out
    assert found.runners["trained"].steps == found.runners["wrong"].steps == 2


def test_a_candidate_that_time_runs_out_on_between_folds_is_left_out(world):
    backbone, rows, deltas = world
    now = [0.0]

    def slowly(split):
        now[0] += 6.0
        return deltas["wrong"]

    folds = [Split(rows[12:], rows[:12]), Split(rows[:12], rows[12:])]
    names = {**given(deltas, SCRATCH, "trained"), "slow": slowly}
    found = race(backbone, names, folds, rungs=(2,), budget=5.0, clock=lambda: now[0])
    assert found.runners["slow"].why_not == "the budget ran out"
    assert not found.runners["slow"].losses


def test_a_candidate_that_diverges_is_left_out_and_scratch_that_does_is_an_error(world):
    backbone, rows, deltas = world
    huge = {name: tensor * 1e30 for name, tensor in deltas["trained"].tensors.items()}
    bad = Delta(deltas[SCRATCH].method, huge)
    found = race(backbone, {**given(deltas, SCRATCH), "huge": lambda split: bad}, [Split(rows, rows)], rungs=(2,))
    assert found.chosen == SCRATCH
    assert found.runners["huge"].why_not is not None
    with pytest.raises(DivergedError, match="scratch cannot be measured"):
        race(backbone, {SCRATCH: lambda split: bad}, [Split(rows, rows)], rungs=(2,))


def test_scratch_that_diverges_in_its_tune_is_an_error(world, monkeypatch):
    backbone, rows, deltas = world

    def broken(*args, description, **kwargs):
        if description == f"trying {SCRATCH}":
            raise DivergedError("a tensor is no longer finite", hint="a smaller learning rate")
        return tune(*args, description=description, **kwargs)

    monkeypatch.setattr(racing, "tune", broken)
    with pytest.raises(DivergedError, match="scratch cannot be tuned"):
        race(backbone, given(deltas, SCRATCH, "trained"), [Split(rows, rows)], rungs=(2,))


def test_the_first_that_can_be_made_is_measured_however_little_time_there_is(world):
    backbone, rows, deltas = world

    def no(split):
        raise DeltaError("ranks differ")

    names = {SCRATCH: lambda split: deltas[SCRATCH], "broken": no, **given(deltas, "trained", "wrong")}
    found = race(backbone, names, [Split(rows, rows)], rungs=(2,), budget=1.0, clock=ticking(2.0))
    assert found.runner_up() == "trained"
    assert found.runners["wrong"].why_not == "the budget ran out"


def test_without_time_for_a_tune_the_choice_is_by_the_losses_as_they_are(world):
    backbone, rows, deltas = world
    names = given(deltas, SCRATCH, "trained", "wrong")
    found = race(backbone, names, [Split(rows, rows)], rungs=(2,), budget=1.0, clock=ticking(2.0))
    assert found.ran_out
    assert found.steps == 0
    assert found.chosen == "trained"
    assert found.runners["wrong"].why_not == "the budget ran out"


@pytest.mark.parametrize(("pace", "budget", "scratch_steps", "spent"), [((1, 1), 5.0, 1, 2.0), ((1, 3), 8.0, 2, 8.0)])
def test_a_tune_that_only_scratch_had_time_for_does_not_count(pace, budget, scratch_steps, spent, world, monkeypatch):
    """A clock on which a step takes a second, or, of the second tunes, three.

    Both have a tune of one step. Two more of two steps go beyond 5 seconds, so none is begun; beyond 8 they go only
    since they take longer than the first ones told.
    """
    backbone, rows, deltas = world
    now = [0.0]

    def slow(*args, settings, **kwargs):
        now[0] += settings.steps * pace[settings.steps - 1]
        return tune(*args, settings=settings, **kwargs)

    monkeypatch.setattr(racing, "tune", slow)
    names = given(deltas, SCRATCH, "trained")
    found = race(backbone, names, [Split(rows, rows)], rungs=(1, 2), budget=budget, clock=lambda: now[0])
    assert found.ran_out
    assert now[0] == spent
    assert found.runners[SCRATCH].steps == scratch_steps
    assert found.runners["trained"].steps == found.steps == 1
    assert found.chosen == "trained"
    assert found.against_scratch("trained")["difference"] < 0


def task_of(n_train, n_dev):
    train, dev = (Dataset.from_list(tiny.sentiment_rows(n, seed)) for n, seed in ((n_train, 0), (max(n_dev, 1), 1)))
    return Task(name="toy", kind="classification", train=train, dev=dev.select(range(n_dev)), test=train)


def test_dev_is_used_where_it_is_large_enough_and_folds_of_all_else(world):
    backbone, _, _ = world
    (split,) = splits_of(task_of(10, 10), backbone)
    assert (len(split.train), len(split.held_out)) == (10, 10)
    folds = splits_of(task_of(10, 3), backbone)
    assert len(folds) == 4
    assert sum(len(fold.held_out) for fold in folds) == 13
    assert all(len(fold.train) + len(fold.held_out) == 13 for fold in folds)
    labels = [sum(row.label for row in fold.held_out) for fold in folds]
    assert max(labels) - min(labels) <= 1
    for fold in folds:  # the task that candidates are made of has the same examples
        assert [row.input for row in backbone.encode(fold.task.train)] == [row.input for row in fold.train]
        assert [row.input for row in backbone.encode(fold.task.dev)] == [row.input for row in fold.held_out]
    with pytest.raises(DataError, match="too few to choose by"):
        splits_of(task_of(1, 0), backbone)


def test_without_any_candidate_beside_scratch_there_is_no_runner_up(world):
    backbone, rows, deltas = world

    def no(split):
        raise DeltaError("ranks differ")

    found = race(backbone, {**given(deltas, SCRATCH), "broken": no}, [Split(rows, rows)], rungs=(1,))
    assert found.chosen == SCRATCH
    with pytest.raises(SourceError, match="broken: ranks differ"):
        found.runner_up()


@pytest.mark.parametrize(("settings", "match"), [({"budget": 0}, "budget"), ({}, "scratch must be among")])
def test_settings_outside_their_range_are_refused(settings, match, world):
    backbone, rows, deltas = world
    names = given(deltas, SCRATCH, "trained") if settings else given(deltas, "trained")
    with pytest.raises(ConfigError, match=match):
        race(backbone, names, [Split(rows, rows)], **settings)
