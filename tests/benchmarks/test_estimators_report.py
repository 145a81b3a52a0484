"""The measures of a ranking, by hand."""

from __future__ import annotations

import math

import pytest

from benchmarks.estimators.report import ranking_metrics, table_rows

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
    assert [line[:2] for line in found] == [["good", "1"], ["bad", "1"]]
    assert found[0][3] == "0.0"
    assert found[1][3] == "30.0"


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
