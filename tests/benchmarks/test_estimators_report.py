"""The measures of a ranking, by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import pytest

from benchmarks.estimators import others
from benchmarks.estimators.__main__ import words_of
from benchmarks.estimators.report import by_chance, of_starts, ranking_metrics, table_rows
from transfer.errors import DataError

ACCURACY = [0.8, 0.6, 0.7]


def test_the_right_order_has_ndcg_one_and_no_regret():
    found = ranking_metrics([3, 1, 2], ACCURACY)
    assert found["NDCG"] == pytest.approx(1)
    assert found["regret@1"] == found["regret@3"] == 0
    assert found["Spearman"] == pytest.approx(1)
    assert found["top-1"] == 1


def test_a_wrong_order_by_hand():
    found = ranking_metrics([1, 3, 2], ACCURACY)  # the order: 0.6, 0.7, 0.8
    discounts = [1, 1 / math.log2(3), 1 / 2]
    ours = sum(gain * d for gain, d in zip([0.6, 0.7, 0.8], discounts, strict=True))
    best = sum(gain * d for gain, d in zip([0.8, 0.7, 0.6], discounts, strict=True))
    assert found["NDCG"] == pytest.approx(ours / best)
    assert found["regret@1"] == pytest.approx(20)
    assert found["regret@3"] == 0
    assert found["Spearman"] == pytest.approx(-1)
    assert found["top-1"] == 0


def test_a_table_is_made_of_the_targets_whose_matrix_is_there():
    def row(estimator, scores, target="a"):
        fields = {"method": "lora", "examples": 64, "seed": 0, "seconds": 1.0}
        return {**fields, "target": target, "estimator": estimator, "scores": scores}

    matrix = [
        {"target": "a", "method": "lora", "steps": 0, "module": name, "accuracy": value}
        for name, value in [("scratch", 0.5), ("m", 0.9), ("n", 0.6)]
    ]
    scores = [row("good", {"m": 1, "n": 0}), row("bad", {"m": 0, "n": 1}), row("good", {"m": 1}, target="b")]
    found = table_rows(scores, matrix, "lora", 64, 0)
    assert [line[:2] for line in found] == [["good", "1"], ["random", "1"], ["bad", "1"]]
    assert found[0][3] == "0.0"
    assert found[2][3] == "30.0"
    assert float(found[1][3]) == pytest.approx(15, abs=2)  # either of two on top, half of the time


def test_all_rankings_stand_on_the_same_targets_or_only_those_that_rank_all():
    def row(estimator, target, good):
        fields = {"method": "lora", "examples": 64, "seed": 0, "seconds": 1.0, "target": target}
        return {**fields, "estimator": estimator, "scores": {"m": float(good), "n": float(not good)}}

    matrix = [
        {"target": target, "method": "lora", "steps": 0, "module": name, "accuracy": value}
        for target in ("a", "b")
        for name, value in [("m", 0.9), ("n", 0.6)]
    ]
    scores = [row("every", "a", True), row("every", "b", False), row("some", "a", True)]
    shared = {line[0]: line for line in table_rows(scores, matrix, "lora", 64, 0)}
    assert [shared[name][1] for name in ("every", "some")] == ["1", "1"]
    assert shared["every"][3] == "0.0"  # without b, which the other does not rank
    everywhere = table_rows(scores, matrix, "lora", 64, 0, everywhere=True)
    (line,) = [line for line in everywhere if line[0] != "random"]
    assert line[:2] == ["every", "2"]
    assert line[3] == "15.0"
    assert table_rows([], matrix, "lora", 64, 0) == []


def test_a_ranking_without_the_target_takes_off_what_all_modules_gain(monkeypatch):
    def module(name):
        return SimpleNamespace(id=name, card=SimpleNamespace(task=f"of {name}"))

    monkeypatch.setitem(others.TARGETS, "report", ["here", "easy", "hard"])
    monkeypatch.setattr(others, "related", lambda target: {"of a"} if target == "easy" else set())
    # `a` has no row on the easy target, where every module gains much: that must not count against it.
    matrix = {"a": {"hard": 0.1}, "b": {"easy": 0.6, "hard": 0.0}, "c": {"easy": 0.4, "hard": 0.02, "here": 9.0}}
    ranking = others.Ranking(
        SimpleNamespace(task=SimpleNamespace(name="here")), [module(name) for name in "abc"], matrix
    )
    # Means over modules: .5 on easy, .04 on hard.
    assert others.target_free(ranking) == pytest.approx([0.06, (0.1 - 0.04) / 2, (-0.1 - 0.02) / 2])
    with pytest.raises(DataError, match=r"(?s)no row of 1 modules on 'easy'.*estimators.matrix"):
        others.target_free(dataclasses.replace(ranking, matrix=matrix | {"c": {"hard": 0.02}}))


def test_a_config_has_options_for_all_parts_and_for_one():
    config = {"targets": ["trec", "boolq"], "run": {"examples": 16}}
    assert words_of(config, "matrix") == ["--targets", "trec,boolq"]
    assert words_of(config, "run") == ["--targets", "trec,boolq", "--examples", "16"]


def test_the_heat_map_has_gains_over_the_shared_start(tmp_path):
    import numpy as np

    from benchmarks.estimators.picture import draw, table

    common = {"method": "lora", "steps": 0}
    rows = [
        {**common, "target": "snli", "module": "scratch", "source": "scratch", "category": None, "accuracy": 0.5},
        {**common, "target": "snli", "module": "b-1", "source": "mnli", "category": "nli", "accuracy": 0.75},
        {**common, "target": "snli", "module": "a-1", "source": "sst2", "category": "a first one", "accuracy": 0.4},
        {**common, "target": "cola", "module": "scratch", "source": "scratch", "category": None, "accuracy": 0.7},
        {**common, "target": "cola", "module": "b-1", "source": "mnli", "category": "nli", "accuracy": 0.7},
        {**common, "target": "sst2", "module": "b-1", "source": "mnli", "category": "nli", "accuracy": 0.9},
        {
            **common,
            "target": "cola",
            "module": "b-1",
            "source": "mnli",
            "category": "nli",
            "accuracy": 0.1,
            "steps": 60,
        },
    ]
    sources, targets, gains = table(rows, "lora", 0)
    assert sources == ["sst2  (a first one)", "mnli  (nli)"]
    assert targets == ["snli", "cola"]  # sst2 has no start to be held against
    np.testing.assert_allclose(gains, [[-10, np.nan], [25, 0]], atol=1e-9)
    assert draw(rows, tmp_path / "map.png").stat().st_size > 5_000
    with pytest.raises(SystemExit, match="nothing to draw"):
        draw(rows, tmp_path / "none.png", "prefix")


def test_chance_is_the_mean_of_all_orders():
    orders = [ranking_metrics(order, ACCURACY) for order in itertools.permutations(range(3))]
    for name, value in by_chance(ACCURACY, draws=4000).items():
        expected = sum(found[name] for found in orders) / len(orders)
        assert value == pytest.approx(expected, abs=0.6 if "@" in name else 0.03)


def test_seeds_are_averaged_and_starts_say_what_was_scored():
    matrix = [
        {"target": target, "method": "lora", "steps": 0, "module": name, "accuracy": value}
        for target in ("a", "b")
        for name, value in [("m", 0.9), ("n", 0.6)]
    ]
    common = {"method": "lora", "examples": 64, "keep": "best"}
    runs = [
        {**common, "target": "a", "seed": 0, "start": "embedding:cosine", "scores": {"m": 1.0, "n": 0.0}},
        {**common, "target": "a", "seed": 1, "start": "embedding:cosine", "scores": {"m": 0.0, "n": 1.0}},
        {**common, "target": "b", "seed": 0, "start": "embedding:cosine", "scores": {"m": 1.0, "n": 0.0}},
        {**common, "target": "a", "seed": 0, "start": "ties", "scores": {"m": 1.0, "n": 0.0}},
        {**common, "target": "a", "seed": 0, "start": "scratch"},
    ]
    (line,) = [line for line in table_rows(of_starts(runs), matrix, "lora", 64, 0) if line[0] != "random"]
    assert line[:2] == ["embedding:cosine", "2"]
    assert line[3] == "7.5"  # 15 points of the first target, two seeds; none of the other
    assert line[6] == "0.50 (0.00 to 1.00)"
    assert line[8] == "-"
