"""Weightings that look at examples: learned, search, greedy, cluster."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st

from transfer import initialize, score, weigh
from transfer.ensembling import WEIGHTINGS, FitSettings, Pool, fit_weights, merge
from transfer.ensembling.cluster import clusters_of
from transfer.ensembling.deadline import Deadline
from transfer.ensembling.fitted import Found, check_fit, check_sources, fitted
from transfer.ensembling.greedy import Greedy
from transfer.ensembling.learned import shrink_towards
from transfer.errors import ConfigError, SourceError, UnknownNameError
from transfer.init_config import InitConfig
from transfer.similarity.scores import Scores
from transfer.similarity.target import Target
from transfer.training import measure
from zoo import Module

FITTED = [name for name in WEIGHTINGS.names() if fitted(name) is not None]
QUICK = FitSettings(steps=6, eval_every=2, batch_size=8, evaluations=12)


def pool_of(small_zoo, method="lora", dev=16, **settings):
    backbone, zoo = small_zoo("bert", method)
    modules = sorted(zoo, key=lambda module: module.id)
    target = Target.for_modules(small.toy_target(dev=dev), backbone, modules, method)
    return Pool(target, modules, score(target, modules, backbone, method), **settings)


def measured(pool, tensors, rows):
    with pool.target.backbone.use(pool.target.method, tensors):
        return measure(pool.target.backbone, rows)


def loss_of(pool, tensors, rows):
    return measured(pool, tensors, rows).calibrated_loss


@pytest.mark.parametrize("how", FITTED)
@pytest.mark.parametrize("method", ["lora", "adapter", "prefix"])
def test_the_delta_is_the_merge_of_the_weights_and_a_seed_decides_them(how, method, small_zoo):
    one, two = (fit_weights(pool_of(small_zoo, method), how, QUICK) for _ in range(2))
    assert one.weights == two.weights
    pool = pool_of(small_zoo, method)
    expected = merge(pool.modules, one.weights).tensors
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)
    assert not one.ended_early
    assert pool.target.backbone.delta is None


@pytest.mark.parametrize("how", FITTED)
def test_a_budget_ends_early_says_so_and_gives_weights_all_the_same(how, small_zoo):
    pool = pool_of(small_zoo)
    found = fit_weights(pool, how, dataclasses.replace(QUICK, budget=1e-9, clusters=3))
    assert found.ended_early
    assert found.about["ended_early"]
    assert set(found.weights) == {module.id for module in pool.modules}
    assert all(np.isfinite(value) for value in found.weights.values())


@pytest.mark.parametrize("how", FITTED)
def test_only_the_closest_take_part(how, small_zoo):
    pool = pool_of(small_zoo, top_k=2)
    closest = {module_id for module_id, _ in pool.scores.top(2)}
    found = fit_weights(pool, how, QUICK)
    assert {module_id for module_id, weight in found.weights.items() if weight} <= closest


def test_a_budget_by_a_clock():
    now = [0.0]
    deadline = Deadline(2, clock=lambda: now[0])
    assert not deadline.over
    now[0] = 2.0
    assert deadline.over
    assert not Deadline(None, clock=lambda: 1e9).over
    with pytest.raises(ConfigError, match="above 0"):
        Deadline(0)


# ---- learned


@given(value=st.floats(-5, 5), centre=st.floats(-5, 5), by=st.floats(0, 3))
def test_shrinking_is_the_proximal_step_of_the_l1_distance(value, centre, by):
    found = torch.tensor([value], dtype=torch.float64)
    shrink_towards(found, torch.tensor([centre], dtype=torch.float64), by)
    # The minimum of (x - value)^2 / 2 + by |x - centre|, which is convex: no neighbour is lower.
    at = lambda x: (x - value) ** 2 / 2 + by * abs(x - centre)  # noqa: E731
    assert all(at(float(found)) <= at(float(found) + step) + 1e-9 for step in (-1e-3, 1e-3, -0.5, 0.5))


def test_learned_takes_the_lowest_dev_loss_that_it_saw(small_zoo):
    pool = pool_of(small_zoo)
    found = fit_weights(pool, "learned", dataclasses.replace(QUICK, steps=12, patience=99))
    losses = [row["calibrated"] for row in found.about["history"]]
    assert len(losses) == 7
    assert loss_of(pool, found.tensors, pool.dev) == pytest.approx(min(losses), abs=1e-6)
    begin = merge(pool.modules, weigh(pool.scores)).tensors
    assert losses[0] == pytest.approx(loss_of(pool, begin, pool.dev), abs=1e-6)


def test_learned_without_a_pull_lowers_the_training_loss(small_zoo):
    pool = pool_of(small_zoo, dev=0)
    found = fit_weights(pool, "learned", FitSettings(steps=15, pull=0, learning_rate=0.1, batch_size=24))
    begin = merge(pool.modules, weigh(pool.scores)).tensors
    rows = pool.target.encoded
    assert found.about["best_step"] == 15
    assert measured(pool, found.tensors, rows).loss < measured(pool, begin, rows).loss - 1e-3


def test_a_strong_pull_leaves_the_similarity_weights_to_the_last_bit(small_zoo):
    pool = pool_of(small_zoo, dev=0)
    found = fit_weights(pool, "learned", dataclasses.replace(QUICK, pull=1e6))
    assert found.about["steps"] == 6
    assert [found.weights[module.id] for module in pool.kept] == pool.begin.double().tolist()


def test_learned_by_block_has_a_coefficient_for_each(small_zoo):
    pool = pool_of(small_zoo, dev=0)
    found = fit_weights(pool, "learned", dataclasses.replace(QUICK, per_block=True, pull=0))
    table = np.array([found.table[module.id] for module in pool.kept])
    assert table.shape == (3, 2)
    assert np.abs(table[:, 0] - table[:, 1]).max() > 1e-4
    assert [found.weights[module.id] for module in pool.kept] == pytest.approx(table.mean(axis=1))


# ---- search


def test_search_is_no_worse_than_where_it_begins_and_keeps_to_its_bounds(small_zoo):
    pool = pool_of(small_zoo)
    settings = FitSettings(evaluations=30, bound=0.4, penalty=0.1)
    found = fit_weights(pool, "search", settings)
    rows, values = pool.target.encoded, np.array([found.weights[module.id] for module in pool.kept])
    objective = measured(pool, found.tensors, rows).loss + 0.1 * np.abs(values).mean()
    assert found.about["objective"] == pytest.approx(objective, abs=1e-5)
    assert objective <= measured(pool, pool.target.start, rows).loss + 1e-6
    assert np.abs(values).max() <= 0.4 + 1e-6
    assert 0 < found.about["evaluations"] <= 30


def test_search_takes_the_closest_modules_only(small_zoo):
    pool = pool_of(small_zoo)
    found = fit_weights(pool, "search", FitSettings(evaluations=8, most=1, penalty=0))
    (closest, _) = pool.scores.top(1)[0]
    assert {module_id for module_id, weight in found.weights.items() if weight} <= {closest}


# ---- greedy


def test_greedy_by_hand(small_zoo):
    pool = pool_of(small_zoo)

    def loss(ids):
        return loss_of(pool, merge(pool.modules, {name: 1 / len(ids) for name in ids}).tensors, pool.dev)

    alone = {module.id: loss([module.id]) for module in pool.modules}
    ranked = sorted(alone, key=alone.get)
    chosen, lowest = ranked[:1], alone[ranked[0]]
    for name in ranked[1:]:
        if loss([*chosen, name]) <= lowest:
            chosen, lowest = [*chosen, name], loss([*chosen, name])
    found = fit_weights(pool, "greedy")
    assert found.about["chosen"] == chosen
    assert found.weights == pytest.approx({name: (name in chosen) / len(chosen) for name in alone})
    assert found.about["loss"] == pytest.approx(lowest, abs=1e-6)
    assert fit_weights(pool_of(small_zoo, dev=0), "greedy").about["chosen_on"] == "train"


# ---- cluster


def test_clusters_are_those_that_were_planted(makes):
    random = np.random.default_rng(0)
    centres = random.normal(size=(2, 1024))
    modules = []
    for number in range(6):
        module = makes.module(f"task-{number}", number)
        sketch = (centres[number % 2] + 0.1 * random.normal(size=1024)) * (1 + number)  # lengths do not count
        signature = dataclasses.replace(module.signature, weight_sketch=sketch.astype(np.float32))
        modules.append(Module.new(module.card, dict(module.tensors()), signature))
    pool = Pool(None, modules, Scores.from_pairs([module.id for module in modules], range(6)))
    labels = dict(zip((module.card.task for module in pool.kept), clusters_of(pool, 2, 0), strict=True))
    groups = [{labels[f"task-{number}"] for number in range(6) if number % 2 == parity} for parity in (0, 1)]
    assert [len(group) for group in groups] == [1, 1]
    assert groups[0] != groups[1]


def test_the_cluster_with_the_lowest_dev_loss_is_taken(small_zoo):
    pool = pool_of(small_zoo)
    found = fit_weights(pool, "cluster", FitSettings(clusters=2))
    losses = []
    for group in found.about["clusters"]:
        even = {name: 1 / len(group["modules"]) for name in group["modules"]}
        losses.append(loss_of(pool, merge(pool.modules, even).tensors, pool.dev))
        assert group["loss"] == pytest.approx(losses[-1], abs=1e-6)
    assert found.about["chosen"] == int(np.argmin(losses))
    assert sorted(name for group in found.about["clusters"] for name in group["modules"]) == sorted(found.weights)


# ---- what is refused


def test_unsupported_settings_are_refused_by_name():
    for arguments, what in [
        (("greedy", "linear", True, None), "one weight for each module"),
        (("uniform", "linear", False, 5.0), "takes no budget"),
        (("learned", "svd", False, None), "of the linear merge"),
        (("learned", "linear", False, -1.0), "above 0"),
    ]:
        with pytest.raises(ConfigError, match=what):
            check_fit(*arguments)
    check_fit("learned", "linear", True, 5.0)
    with pytest.raises(UnknownNameError):
        check_fit("lerned", "linear", False, None)
    with pytest.raises(ConfigError, match="looks at the target's examples"):
        weigh({"a": 1.0, "b": 0.0}, "learned")
    for wrong in ({"steps": 0}, {"bound": 0}, {"pull": -1}, {"budget": 0}):
        with pytest.raises(ConfigError):
            FitSettings(**wrong)


@pytest.mark.parametrize("how", FITTED)
def test_modules_of_unknown_starts_are_for_weights_that_sum_to_1(how, small_zoo):
    pool = pool_of(small_zoo, "adapter")
    module = pool.modules[0]
    card = dataclasses.replace(module.card, start=None)
    stranger = Module.new(card, dict(module.tensors()), module.signature)
    modules = [stranger, *pool.modules[1:]]
    if how in ("greedy", "cluster"):
        check_sources(how, pool.target, modules)
        return
    with pytest.raises(ConfigError, match="known start") as caught:
        check_sources(how, pool.target, modules)
    assert stranger.id in str(caught.value)


def test_cluster_says_early_which_module_lacks_a_sketch(small_zoo):
    pool = pool_of(small_zoo)
    module = pool.modules[0]
    bare = Module.new(module.card, dict(module.tensors()))
    with pytest.raises(SourceError, match="weight sketch"):
        check_sources("cluster", pool.target, [bare, *pool.modules[1:]])


def test_averages_of_three_strangers_are_merged(small_zoo, monkeypatch):
    """Weights of 1/3 in fp32 sum to 1 but for rounding, so they need no shared start."""
    backbone, zoo = small_zoo()
    strangers = [Module.new(dataclasses.replace(m.card, start=None), dict(m.tensors())) for m in zoo][:3]
    monkeypatch.setattr(Greedy, "fit", lambda self, pool, *_: Found(pool.unit(range(3)), {}, False))
    found = initialize(small.toy_target(), strangers, backbone, how="greedy", guard=False)
    mean = {n: sum(m.tensors()[n].float() for m in strangers) / 3 for n in strangers[0].tensors()}
    for name, tensor in found.delta.tensors.items():
        torch.testing.assert_close(tensor, mean[name])


def test_a_search_that_keeps_nothing_hands_over_the_start(small_zoo):
    backbone, zoo = small_zoo()
    found = initialize(small.toy_target(), zoo, backbone, how="search", budget=1e-6, guard=False)
    module = next(iter(zoo))
    assert set(found.recipe["weights"].values()) == {0.0}
    assert all(torch.equal(t, module.start()[name].float()) for name, t in found.delta.tensors.items())
    assert found.recipe["start"] == module.card.start


def test_options_of_a_merge_that_a_weighting_does_not_use_are_refused_before_any_work():
    with pytest.raises(ConfigError, match="'linear' has no option 'rank'"):
        InitConfig(how="learned", merge_options={"rank": 4})


def test_with_no_time_at_all_the_closest_is_what_there_is(small_zoo):
    pool = pool_of(small_zoo)
    ((closest, _),) = pool.scores.top(1)
    none = dataclasses.replace(QUICK, budget=1e-9, clusters=3)
    greedy = fit_weights(pool, "greedy", none)
    assert {module_id for module_id, weight in greedy.weights.items() if weight} == {closest}
    cluster = fit_weights(pool, "cluster", none)
    begin = dict(zip((module.id for module in pool.kept), pool.begin.tolist(), strict=True))
    groups = [group["modules"] for group in cluster.about["clusters"]]
    heaviest = max(groups, key=lambda group: np.mean([begin[module_id] for module_id in group]))
    assert {module_id for module_id, weight in cluster.weights.items() if weight} == set(heaviest)


def test_learned_stops_where_dev_only_gets_worse(small_zoo):
    pool = pool_of(small_zoo)
    wrong = [dataclasses.replace(row, label=1 - row.label) for row in pool.target.encoded]
    pool.dev = wrong
    settings = dataclasses.replace(QUICK, steps=40, eval_every=1, patience=2, learning_rate=0.5, pull=0.0)
    found = fit_weights(pool, "learned", settings)
    assert found.about["steps"] < 40
    assert not found.ended_early
    assert found.about["steps"] == found.about["best_step"] + 2
