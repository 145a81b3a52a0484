"""Paired gains and the tables made of them, held against what comes out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.answers import packed, paired_interval, unpacked
from benchmarks.strategies.gains import gain_of
from benchmarks.strategies.guarding import guard_rows
from benchmarks.strategies.picture import draw_curves
from benchmarks.strategies.report import (
    HEAD,
    category_rows,
    curve,
    failures,
    held_rows,
    if_tuned,
    keep_rows,
    learnable,
    report,
    runs,
    speed,
    step0_rows,
    table_rows,
    target_rows,
)


def row(target, start, seed, accuracy, keep="best", category="nli", majority=0.4, history=(), **more):
    run = {"stage": "run", "target": target, "method": "lora", "examples": 64, "start": start, "seed": seed}
    run |= {"keep": keep, "category": category, "majority": majority, "steps": 60, "seconds": 8.0, "seconds_start": 2.0}
    for name in ("step0", "step60", "best"):
        run |= {f"accuracy_{name}": accuracy, f"macro_f1_{name}": accuracy - 0.1}
    run |= {"dev_history": list(history), "best_step": 40, "dev_loss": 0.5}
    return run | more


RISING = [{"step": step, "accuracy": 0.45 + step / 100} for step in range(0, 41, 10)]
ROWS = [
    *(row(target, "scratch", seed, 0.5, history=RISING) for target in ("a", "b") for seed in (0, 1)),
    *(row("a", "uniform", seed, 0.6, history=[{"step": 0, "accuracy": 0.9}]) for seed in (0, 1)),
    *(row("b", "uniform", seed, 0.5, history=[{"step": 0, "accuracy": 0.6}]) for seed in (0, 1)),
    row("a", "uniform", 0, 0.7, keep="soup"),
    row("a", "scratch", 0, 0.56, keep="soup"),
]


def test_a_gain_is_of_the_means_and_counts_targets():
    found = gain_of({"a": [(0.6, 0.5), (0.8, 0.5)], "b": [(0.5, 0.5)], "c": [(0.3, 0.5)]})
    assert (found.mean, found.base) == pytest.approx((0.5, 0.5))
    assert (found.wins, found.ties, found.losses, found.targets) == (1, 1, 1, 3)
    assert found.relative == pytest.approx(0.0)
    assert found.low < 0 < found.high


def test_the_interval_is_that_of_a_bootstrap_written_out():
    generator = np.random.default_rng(3)
    pairs = {str(i): [tuple(generator.uniform(0.4, 0.8, 2)) for _ in range(3)] for i in range(6)}
    found = gain_of(pairs, draws=4000)
    other, names = np.random.default_rng(11), list(pairs)
    drawn = []
    for _ in range(4000):
        chosen = [pairs[names[i]] for i in other.integers(6, size=6)]
        means = np.mean([np.mean([values[i] for i in other.integers(3, size=3)], axis=0) for values in chosen], axis=0)
        drawn.append(means[0] / means[1] - 1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_equal_pairs_have_no_interval_to_speak_of():
    found = gain_of({"a": [(0.55, 0.5)] * 2, "b": [(0.55, 0.5)] * 2})
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    with pytest.raises(ValueError, match="no runs"):
        gain_of({})


def test_the_table_has_the_best_start_first():
    lines = table_rows(ROWS)
    assert [line[0] for line in lines] == ["uniform", "scratch"]
    assert lines[0][1:6] == ["2", "0.550", "0.550", "0.550", "0.500"]
    assert lines[0][7].startswith("+10.0%")
    assert lines[0][8] == "1/1/0"
    assert lines[0][9:13] == ["0.550", "-", "0.450", "+12.5% (+0.0 to +25.0)"]
    assert lines[0][13:] == ["-", "10"]
    assert lines[1][6:9] == ["-", "-", "-"]


def test_a_start_that_lacks_a_target_is_held_against_scratch_on_its_own():
    found = {("easy", "scratch"): 0.9, ("hard", "scratch"): 0.3, ("easy", "category"): 0.91}
    found |= {("easy", "uniform"): 0.92, ("hard", "uniform"): 0.34}
    rows = [row(target, start, 0, accuracy, history=RISING) for (target, start), accuracy in found.items()]
    lines = table_rows(rows)
    assert [line[0] for line in lines] == ["uniform", "category", "scratch"]  # by gain, not by the easier targets
    assert lines[1][1:6] == ["1", "0.910", "0.910", "0.910", "0.900"]


def test_speed_is_of_mean_curves_on_rows_that_nothing_else_sees(tmp_path):
    def seen(target, start, curve, best=0.0, **more):
        curve = {str(step): value for step, value in curve.items()}
        return row(target, start, 0, 0.5, held_accuracy_best=best, held_curve=curve, **more)

    rows = [
        seen("a", "scratch", {0: 0.4, 10: 0.5, 60: 0.6}, 0.7, best_step=90),
        seen("b", "scratch", {0: 0.4, 10: 0.5, 60: 0.7}, 0.7, best_step=50),
        seen("a", "uniform", {0: 0.5, 10: 0.8}),  # it ended there
        seen("b", "uniform", {0: 0.5, 10: 0.5, 20: 0.6, 60: 0.9}),
    ]
    assert curve(rows, "uniform") == pytest.approx({0: 0.5, 10: 0.65, 20: 0.7, 60: 0.85})
    assert speed(rows, "uniform") == "20 of 70"
    assert speed(rows, "scratch") == "never of 70"  # at 60 it has .65; its best steps are not among the looks
    del rows[2]
    assert speed(rows, "uniform") == "60 of 50"  # scratch on the same target alone
    old = [{name: value for name, value in one.items() if name != "held_curve"} for one in rows]
    assert curve(old, "uniform") == {}
    assert speed(old, "uniform") == "-"
    assert draw_curves(old, ["uniform"], tmp_path / "none.png", "title") is None
    assert draw_curves(rows, ["uniform", "absent"], tmp_path / "curves.png", "title").stat().st_size > 5_000


def test_what_stays_at_its_start_has_an_accuracy_if_it_were_tuned():
    stays = row("a", "uniform", 0, 0.6, best_step=0)
    assert if_tuned([stays], "uniform") is None
    assert if_tuned([stays | {"accuracy_tuned": 0.5}], "uniform") == 0.5
    assert if_tuned([row("a", "uniform", 0, 0.6)], "uniform") == 0.6


def test_what_all_data_give_comes_last():
    bound = row("a", "all-data", 0, 0.75, keep=None)
    del bound["accuracy_best"]
    line = table_rows([*ROWS, bound])[-1]
    assert line[:2] == ["all-data", "1"]
    assert line[4:9] == ["0.750", "0.500", "-", "+50.0%", "1/0/0"]
    assert len(line) == len(HEAD)


def test_learnable_targets_are_those_of_the_file():
    rows = [row("cola", "scratch", 0, 0.9), row("sst2", "scratch", 0, 0.4)]
    assert [one["target"] for one in learnable(rows)] == ["sst2"]


def test_a_guard_is_judged_by_what_is_held_out_at_the_end():
    def seen(start, seed, losses, end):
        history = [{"step": step, "accuracy": 0.5, "calibrated": loss} for step, loss in losses.items()]
        return row("a", start, seed, 0.5, history=history, held_loss_best=end)

    rows = [
        seen("scratch", 0, {0: 1.0, 10: 0.8, 20: 0.7}, 0.6),
        seen("uniform", 0, {0: 0.9, 10: 0.85, 20: 0.5}, 0.5),  # better at 0, worse at 10, better at 20 and at the end
        seen("scratch", 1, {0: 1.0, 10: 0.8}, 0.6),
        seen("uniform", 1, {0: 0.9, 10: 0.9}, 0.7),  # better at 0, worse from then on
    ]
    lines = {line[0]: line[1:] for line in guard_rows(rows)}
    assert lines["0"] == ["2", "1.00", "0.50", "0.50", "-"]
    assert lines["10"][:4] == ["2", "0.00", "-", "0.50"]
    assert lines["20"] == ["2", "0.50", "1.00", "1.00", "1.00"]
    assert guard_rows(rows[:2]) == []


def test_what_was_held_out_has_a_table_of_its_own():
    held = {"held_accuracy_step0": 0.4, "held_accuracy_step60": 0.5, "held_accuracy_best": 0.5, "held_loss_best": 0.7}
    rows = [row("a", "scratch", 0, 0.5, **held), row("a", "uniform", 0, 0.5, **held | {"held_accuracy_best": 0.6})]
    rows += [row("b", "scratch", 0, 0.5), row("b", "uniform", 0, 0.5)]  # not measured on them
    first, last = held_rows(rows)
    assert first == ["uniform", "1", "0.400", "0.500", "0.600", "0.500", "+0.0%", "+20.0%", "0.700"]
    assert last[0] == "scratch"


def test_ways_of_keeping_stand_beside_their_control():
    lines = {(line[0], line[1]): line for line in keep_rows(ROWS)}
    assert lines["soup", "uniform"][4].startswith("+40.0%")
    assert lines["soup", "uniform"][5].startswith("+25.0%")
    assert lines["soup", "scratch"][4].startswith("+12.0%")
    assert lines["best", "scratch"][4] == "-"
    # All on what all of them have: one target, one seed.
    assert {line[2] for line in lines.values()} == {"1"}
    assert lines["best", "uniform"][3] == "0.600"


def test_a_start_that_is_worse_with_every_seed_is_marked():
    worse = [*ROWS[:4], row("a", "uniform", 0, 0.4), row("a", "uniform", 1, 0.45), row("b", "uniform", 0, 0.4)]
    worse += [row("b", "uniform", 1, 0.6)]
    lines = {line[0]: line for line in target_rows(worse, ["uniform"])}
    assert lines["a"][-1].endswith("↓")
    assert not lines["b"][-1].endswith("↓")
    assert category_rows(worse, ["uniform"]) == [["nli", "2", "0.500", "-7.5%"]]


def test_the_paired_interval_of_a_target_decides_where_rows_say_what_is_right():
    generator = np.random.default_rng(0)
    base = [generator.random(400) < 0.5 for _ in range(2)]
    much = [np.where(generator.random(400) < 0.3, True, right) for right in base]
    little = [np.where(np.arange(400) == seed, ~right, right) for seed, right in enumerate(base)]
    rows = []
    for start, found in (("scratch", base), ("much", much), ("little", little)):
        rows += [row("a", start, seed, right.mean(), right_best=packed(right)) for seed, right in enumerate(found)]
    ((*_, scratch, up, same),) = target_rows(rows, ["much", "little"])
    assert (scratch[-1] != "↑", up[-1], same[-1].isdigit()) == (True, "↑", True)


def test_answers_come_back_as_they_were():
    right = np.random.default_rng(1).random(37) < 0.5
    assert np.array_equal(unpacked(packed(right)), right)
    ours, base = np.ones(100), np.repeat([1.0, 0.0], [80, 20])
    low, high = paired_interval([(packed(ours), packed(base))])
    # A share of .2 in 100: the percentiles of a binomial over 100.
    assert (low, high) == (pytest.approx(0.13, abs=0.02), pytest.approx(0.28, abs=0.02))


def test_the_report_says_what_failed_and_draws(tmp_path, capsys):
    bad = {**row("a", "category", 0, 0.0), "error": "ConfigError: no module"}
    report([*ROWS, bad], tmp_path)
    said = capsys.readouterr().out
    assert "a lora category best 64 0 ConfigError: no module" in said
    assert (tmp_path / "lora-64.png").stat().st_size > 10_000
    assert failures(ROWS) == []
    assert failures([bad, row("a", "category", 0, 0.0)]) == []  # a later try succeeded
    refused = {**row("a", "leep", 0, 0.0), "refused": "ConfigError: not for this"}
    assert [why for _, why in failures([bad, refused])] == ["ConfigError: no module", "ConfigError: not for this"]
    assert runs([bad, refused], "lora", 64) == []


def test_starts_as_they_are_stand_beside_the_untrained_on_their_own_targets():
    bare = [{**row(target, "untrained", 0, 0.4), "keep": None} for target in ("a", "b")]
    variant = {**row("a", "embedding:mmd", 0, 0.5), "keep": None}
    lines = {line[0]: line for line in step0_rows([*ROWS, *bare, variant])}
    assert {name: line[1] for name, line in lines.items()}["embedding:mmd"] == "1"  # it has no row on b
    assert lines["embedding:mmd"][2:] == ["0.500", "0.400", "+25.0%", "0.400"]
    assert lines["uniform"][1] == "2"
    assert lines["untrained"][4] == "-"


def test_one_run_has_no_interval():
    assert gain_of({"a": [(0.6, 0.5)]}).shown() == "+20.0%"
