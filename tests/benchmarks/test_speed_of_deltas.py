"""The benchmark of deltas: what is timed is the same on both sides, and the figures are those of the times."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from benchmarks.speed import deltas, deltas_table
from benchmarks.speed.paired import Paired, time_by_turns


def test_both_sides_take_turns():
    calls = []
    pairs = time_by_turns(lambda: calls.append("ours"), lambda: calls.append("theirs"), rounds=2, warm_up=1)
    assert calls == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert pairs.ours.shape == pairs.theirs.shape == (2,)


def test_the_ratio_is_that_of_the_medians_within_its_interval():
    theirs = np.linspace(1, 2, 41)
    pairs = Paired(theirs * 0.8, theirs)
    assert pairs.ratio == pytest.approx(0.8)
    assert pairs.interval() == pytest.approx((0.8, 0.8))  # what slows a round slows both
    noisy = Paired(theirs * 0.8, theirs[::-1])
    low, high = noisy.interval()
    assert low < 0.8 < high


@pytest.mark.parametrize("measure", ["step", "forward"])
@pytest.mark.parametrize("method", deltas.METHODS)
def test_each_method_is_timed_against_its_counterpart(method, measure):
    pairs = deltas.compare(tiny.tiny_model("bert"), method, 2, 8, measure, rounds=2)
    assert (pairs.ours > 0).all()
    assert (pairs.theirs > 0).all()


def test_sides_that_answer_differently_are_not_timed(monkeypatch):
    monkeypatch.setattr(deltas, "copy_tensors", lambda attached, peft: attached.sites[0].lora_B.data.fill_(1.0))
    with pytest.raises(ValueError, match="answer differently"):
        deltas.compare(tiny.tiny_model("bert"), "lora", 2, 8, "forward", rounds=1)


def test_attaching_gives_a_time_for_each_module_and_a_row_for_the_table():
    row = deltas.attach_row(deltas.attach_many(tiny.tiny_model("bert"), 10))
    assert len(row["seconds_ours"]) == len(row["seconds_theirs"]) == 10
    table = deltas_table.attach_rows([{"measure": "attach", "modules": 10, "threads": 1, **row}])
    assert [line[:3] for line in table] == [["transfer", "10", "1"], ["peft", "10", "1"]]


def test_growth_is_the_last_tenth_over_the_first():
    row = deltas.attach_row(Paired(np.full(20, 0.5), np.repeat([0.1, 0.2], 10)))
    assert (row["growth_ours"], row["growth_theirs"]) == (1.0, 2.0)
    assert (row["first_theirs"], row["last_theirs"]) == (0.1, 0.2)


def test_a_line_of_the_table_shows_the_ratio_with_its_interval():
    row = {"measure": "step", "method": "lora", "against": "peft lora", "batch": 16, "length": 32, "threads": 2}
    row |= {"seconds_ours": 0.1, "seconds_theirs": 0.125, "ratio": 0.8, "ratio_low": 0.75, "ratio_high": 0.9}
    assert deltas_table.table_rows([row]) == [
        ["step", "lora", "peft lora", "16 x 32", "2", "0.1000", "0.1250", "0.800 (0.750 to 0.900)"]
    ]
