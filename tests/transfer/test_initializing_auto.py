"""initialize(auto=True): several starts raced, what won is handed over and explained, never worse than scratch."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from small import toy_target

from transfer import Initialization, initialize, merge
from transfer.ensembling import automatic
from transfer.errors import ConfigError
from transfer.report import page_of
from zoo import Module

RACED = dict(automatic.CANDIDATES)


@pytest.fixture(autouse=True)
def short_tunes(monkeypatch):
    monkeypatch.setattr(automatic, "RUNGS", (2, 4))


@pytest.fixture
def two_candidates(monkeypatch):
    names = ("first-order", "learned")
    monkeypatch.setattr(automatic, "CANDIDATES", {name: automatic.CANDIDATES[name] for name in names})


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def spoiled(zoo, strength=8.0):
    """Modules far off in a random direction: nothing that is made of them can be any good."""
    found = []
    for number, module in enumerate(zoo):
        generator = torch.Generator().manual_seed(number)
        tensors = {n: t + strength * torch.randn(t.shape, generator=generator) for n, t in module.tensors().items()}
        found.append(Module.new(module.card, tensors, module.signature, module.start()))
    return found


def test_what_was_tried_is_in_the_recipe_and_the_best_is_handed_over(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    notes = []
    found = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8, say=notes.append)
    auto = found.recipe["auto"]
    tried = {row["candidate"]: row for row in auto["candidates"]}
    assert set(tried) == {"scratch", *automatic.CANDIDATES}
    assert [row["candidate"] for row in tried.values() if row["chosen"]] == [auto["chosen"]]
    level = [row for row in tried.values() if row["steps"] == auto["steps"] and row["why_not"] is None]
    assert tried[auto["chosen"]]["loss_after"] == min(row["loss_after"] for row in level)
    assert not auto["ran_out"]
    assert (found.recipe["weighting"] is not None) == (found.recipe["how"] == "learned")
    assert json.loads(json.dumps(found.recipe, allow_nan=False)) == found.recipe
    assert backbone.delta is None
    assert equal(Initialization.load(found.save(tmp_path / "start")).delta.tensors, found.delta.tensors)
    assert "<h2>What was tried</h2>" in page_of(found.recipe)


def test_the_seed_decides_what_is_chosen(small_zoo, two_candidates):
    backbone, zoo = small_zoo()
    one, two = (initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8, seed=1) for _ in range(2))
    assert equal(one.delta.tensors, two.delta.tensors)
    losses = [[row["loss_after"] for row in found.recipe["auto"]["candidates"]] for found in (one, two)]
    assert losses[0] == losses[1]


def test_where_nothing_is_better_scratch_is_kept_and_said(small_zoo):
    backbone, zoo = small_zoo()
    notes = []
    task = toy_target(dev=96)  # among few examples some noise is right by chance
    found = initialize(task, spoiled(zoo), backbone, auto=True, budget=300, batch_size=8, say=notes.append)
    assert found.recipe["auto"]["chosen"] == "scratch"
    assert found.recipe["handed_over"] == "scratch"
    assert found.recipe["licences"] == []
    assert found.verdict.licences == ()
    assert found.recipe["guard"] is None
    assert equal(found.delta.tensors, {n: t.float() for n, t in next(iter(zoo)).start().items()})
    assert found.verdict.difference >= 0
    assert any("nothing that was tried was better than scratch" in note for note in notes)
    assert found.name == "scratch, which nothing was better than for toy"


def test_the_recipe_names_the_rule_of_what_was_chosen(small_zoo, monkeypatch):
    backbone, zoo = small_zoo()
    monkeypatch.setattr(automatic, "CANDIDATES", {"ties": automatic.CANDIDATES["ties"]})
    found = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8)
    assert found.recipe["merge"] == "ties"
    if found.recipe["handed_over"] == "merged":
        assert equal(found.delta.tensors, merge(zoo, found.recipe["weights"], "ties").tensors)


def test_few_dev_examples_mean_folds(small_zoo, two_candidates):
    backbone, zoo = small_zoo()
    task = toy_target()
    notes = []
    few = type(task)(**{**task.__dict__, "dev": task.dev.select(range(3))})
    found = initialize(few, zoo, backbone, auto=True, budget=300, batch_size=8, say=notes.append)
    assert found.recipe["auto"]["cross_validated"]
    assert found.verdict.n_dev == len(task.train) + 3
    assert any("cross-validation" in note for note in notes)
    assert f"{len(task.train) + 3} held-out examples by cross-validation" in found.verdict.text
    assert "dev examples" not in found.verdict.text


def test_weights_whose_learning_the_budget_ended_are_told_of(small_zoo, two_candidates, monkeypatch):
    backbone, zoo = small_zoo()
    monkeypatch.setattr(automatic, "LEARNED_SHARE", 1e-9)
    notes = []
    found = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8, say=notes.append)
    assert found.recipe["auto"]["cut_short"] == ["learned"]
    assert "the budget of 300 s ended the making of learned early" in notes


def test_adapters_of_strangers_have_the_plain_average_at_least(small_zoo):
    backbone, zoo = small_zoo("bert", "adapter")
    strangers = [Module.new(dataclasses.replace(m.card, start=None), dict(m.tensors())) for m in zoo]
    found = initialize(toy_target(), strangers, backbone, "adapter", auto=True, budget=300, batch_size=8)
    why_not = {row["candidate"]: row["why_not"] for row in found.recipe["auto"]["candidates"]}
    assert why_not["uniform"] is None
    assert "is not known" in why_not["first-order"]


def test_strangers_without_signature_or_start_leave_the_candidates_that_need_none(small_zoo):
    backbone, zoo = small_zoo()
    strangers = [Module.new(dataclasses.replace(m.card, start=None), dict(m.tensors())) for m in zoo]
    found = initialize(toy_target(), strangers, backbone, auto=True, budget=300, batch_size=8)
    why_not = {row["candidate"]: row["why_not"] for row in found.recipe["auto"]["candidates"]}
    assert why_not["first-order"] is None
    assert why_not["prediction"] is None
    assert "signature" in why_not["embedding"]
    assert "start" in why_not["learned"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"how": "best"}, "how='best' has no part"),
        ({"estimator": "prediction:loss"}, "estimator='prediction:loss' has no part"),
        ({"guard": False}, "guard=False has no part"),
        ({"merge": "ties", "merge_options": {"density": 0.5}}, "rule's own settings"),
        ({"budget": -1.0}, "budget must be above 0"),
        ({"merge": "regmean"}, "inputs of the sources"),
    ],
)
def test_settings_that_have_no_part_are_refused_before_any_work(settings, match, small_zoo):
    backbone, zoo = small_zoo()
    with pytest.raises(ConfigError, match=match):
        initialize(toy_target(), zoo, backbone, auto=True, **settings)


def test_without_time_for_a_tune_nothing_is_said_to_help(small_zoo, two_candidates, monkeypatch):
    backbone, zoo = small_zoo()
    monkeypatch.setattr(automatic, "RUNGS", ())
    race = automatic.race

    def far_better(*args, **settings):
        found = race(*args, **settings)
        for name, runner in found.runners.items():
            runner.losses[0] = runner.losses[0] - (name != "scratch") * 0.5
        return dataclasses.replace(found, chosen=found.runner_up())

    monkeypatch.setattr(automatic, "race", far_better)
    found = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8)
    assert found.verdict.interval[1] < 0
    assert found.verdict.outcome == "unclear"
    said = "unclear whether it helps after a tune, which there was no time for; as it is: "
    assert found.verdict.text.startswith(said)


def test_settings_of_weights_count_in_a_race_and_so_does_how_many_ran(small_zoo, monkeypatch):
    backbone, zoo = small_zoo()
    monkeypatch.setattr(automatic, "CANDIDATES", {"first-order": automatic.CANDIDATES["first-order"]})
    one = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8, top_k=1)
    assert sorted(one.recipe["weights"].values())[-2:] == [0.0, 1.0]
    spread = []
    for temperature in (0.1, 5.0):
        found = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8, temperature=temperature)
        spread.append(max(found.recipe["weights"].values()))
    assert spread[0] > spread[1] + 0.2
    assert "the best of" not in one.verdict.text  # there was one
    names = ("first-order", "uniform")
    monkeypatch.setattr(automatic, "CANDIDATES", {name: RACED[name] for name in names})
    two = initialize(toy_target(), zoo, backbone, auto=True, budget=300, batch_size=8)
    assert ", the best of 2, " in two.verdict.text
