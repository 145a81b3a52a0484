"""An experiment run for real on a task of its own: its rows, what is shared, what is not run again."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.answers import unpacked
from benchmarks.rows import Rows
from benchmarks.strategies import running
from benchmarks.strategies.experiment import Experiment
from benchmarks.strategies.problem import Made, Problem, Tuning
from benchmarks.strategies.rates import GRID, KEY, choose_rate, rate_key
from benchmarks.strategies.running import Runner
from benchmarks.strategies.starts import STARTS, Recipe, start_of
from benchmarks.targets import TARGETS
from transfer.errors import DivergedError, UnknownNameError
from transfer.tasks import load_task
from transfer.training.measuring import measure

WORDS = {"good": ["lovely", "great", "fine", "superb"], "bad": ["dull", "awful", "poor", "boring"]}
TUNING = Tuning(steps=4, check=2, patience=None)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    task = folder / "films"
    task.mkdir()
    about = {"name": "films", "category": "no such category", "kind": "classification", "metric": "accuracy"}
    (task / "task.json").write_text(json.dumps({**about, "license": "CC0-1.0"}))
    for split, n in (("train", 24), ("dev", 12), ("test", 12)):
        rows = []
        for i in range(n):
            label = sorted(WORDS)[i % 2]
            text = f"{split} film {i} was {WORDS[label][i // 2 % 4]}"
            rows.append({"input": text, "choices": sorted(WORDS), "label": i % 2})
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def backbone():
    from transfer.backbones import load_backbone

    return load_backbone()


@pytest.fixture
def here(tasks, monkeypatch):
    monkeypatch.setenv("TRANSFER_TASKS", str(tasks))


def experiment(**changes):
    part = {"methods": ["lora"], "examples": [8], "seeds": [0, 1], "targets": ["films"]}
    part |= {"starts": ["scratch", "gradient:first-order", "category"], "as_they_are": ["embedding:cosine"]}
    part |= {"keep": ["interpolate"], "keep_from": ["scratch", "gradient:first-order"]}
    return Experiment.model_validate(
        {"parts": [part], "grid": [0.3, 0.1], "rate_examples": 8, "steps": 4, "check": 2, "patience": None, **changes}
    )


def test_rows_of_an_experiment(here, backbone, tmp_path):
    path = tmp_path / "rows.jsonl"
    Runner(Rows(path, KEY), experiment(), backbone).run()
    rows = Rows(path, KEY).rows
    rates = [row for row in rows if row["stage"] == "rate"]
    assert [(row["start"], row["seed"]) for row in rates] == [("scratch", 0)] * 2 + [("uniform", 0)] * 2
    runs = {(row["start"], row["keep"], row["seed"]): row for row in rows if row["stage"] == "run"}
    assert len(runs) == 2 * 7
    for kind, start in (("scratch", "scratch"), ("uniform", "gradient:first-order")):
        best = min((row for row in rates if row["start"] == kind), key=lambda row: row["tuned_loss"])
        factors = {row["learning_rate_factor"] for (s, keep, _), row in runs.items() if s == start and keep}
        assert factors == {best["learning_rate_factor"]}
    scratch, close = runs["scratch", "best", 0], runs["gradient:first-order", "best", 0]
    assert scratch["accuracy_step0"] == runs["untrained", None, 0]["accuracy_step0"]  # LoRA's start does nothing
    assert [row["step"] for row in close["dev_history"]] == [0, 2, 4]
    assert close["dev_loss"] == min(row["calibrated"] for row in close["dev_history"])
    assert close["middle"] == 4
    assert close["held_curve"].keys() == {"0", "4"}
    assert close["held_curve"]["4"] == pytest.approx(close["held_accuracy_step60"])
    assert close["tuned_step"] == min((row["calibrated"], row["step"]) for row in close["dev_history"][1:])[1]
    assert unpacked(close["right_tuned"]).mean() == pytest.approx(close["accuracy_tuned"])
    assert set(close["scores"]) == set(close["weights"]) == set(runs["embedding:cosine", None, 0]["scores"])
    assert max(close["scores"], key=close["scores"].get) == max(close["weights"], key=close["weights"].get)
    assert "accuracy_best" not in runs["embedding:cosine", None, 1]
    assert runs["category", "best", 0]["refused"].startswith("ConfigError: no module has the category")
    assert unpacked(close["right_best"]).mean() == pytest.approx(close["accuracy_best"])
    kept = runs["gradient:first-order", "interpolate", 0]
    assert kept["dev_loss"] <= close["dev_loss"]  # the steps are among its candidates
    assert kept["steps"] == close["steps"]
    Runner(Rows(path, KEY), experiment(), backbone).run()
    assert Rows(path, KEY).rows == rows  # what a start cannot be made for it is not asked again


def test_whatever_fails_the_others_run_and_it_is_tried_again(here, backbone, tmp_path):
    path = tmp_path / "rows.jsonl"
    small = experiment().model_dump()
    small["parts"][0] |= {"seeds": [0], "starts": ["broken", "scratch"], "as_they_are": [], "keep": []}

    def broken(problem):
        raise RuntimeError("out of\nluck")

    def made(problem):
        return Made(problem.scratch)

    with pytest.raises(SystemExit, match="1 runs failed"):
        Runner(Rows(path, KEY), Experiment.model_validate(small), backbone, more={"broken": Recipe(broken)}).run()
    rows = Rows(path, KEY).rows
    assert [row["error"] for row in rows if row["start"] == "broken"] == ["RuntimeError: out of"]
    assert "accuracy_best" in rows[-1]
    Runner(Rows(path, KEY), Experiment.model_validate(small), backbone, more={"broken": Recipe(made)}).run()
    (again,) = Rows(path, KEY).rows[len(rows) :]
    assert again["start"] == "broken"
    assert "accuracy_best" in again


def test_a_rate_is_chosen_by_tuned_steps_and_equal_ones_give_the_method_s_own(tmp_path):
    def never():
        raise AssertionError("it is there already")

    def chosen(*losses, **more):
        rows = Rows(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", KEY)
        problem = {"target": "films", "method": "lora", "examples": 8, "seed": 0, "tuning": "4/2/None/16"}
        for factor, found in zip(GRID, losses, strict=True):
            rows.add(**rate_key(problem, "scratch", factor), **found)
        return choose_rate(rows, problem, "scratch", GRID, more.get("make", never))

    after = [{"tuned_loss": loss, "dev_loss": 0.5, "best_step": 0} for loss in (0.7, 0.6, 0.6)]
    assert chosen(*after) == 1.0  # not a third, though the start is best at every rate
    assert chosen(*reversed(after)) == 1.0
    assert chosen({"tuned_loss": None}, {"tuned_loss": None}, after[0]) == 3.0  # the others diverged
    with pytest.raises(DivergedError, match="at every learning rate"):
        chosen(*[{"tuned_loss": None}] * 3)
    old = {"dev_loss": 0.4, "best_step": 10}
    assert chosen(old, *after[1:]) == pytest.approx(1 / 3)  # its best step is no start: that is the loss
    with pytest.raises(AssertionError, match="there already"):
        chosen({"dev_loss": 0.4, "best_step": 0}, *after[1:])  # what it says is the start's: it is tuned again


def test_all_data_is_tested_as_it_is_and_once(here, backbone):
    part = experiment().parts[0].model_copy(update={"once": ["all-data"], "seeds": [0, 1]})
    assert [Runner._wanted(part, seed).count(("all-data", None)) for seed in (0, 1)] == [1, 0]
    assert ("all-data", "best") not in Runner._wanted(part, 0)


def test_a_kill_in_the_middle_of_a_line_costs_that_line_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    Rows(path, ("name",)).add(name="first")
    with path.open("a") as file:
        file.write('{"name": "seco')
    before = path.read_text()
    rows = Rows(path, ("name",))
    assert [row["name"] for row in rows.rows] == ["first"]
    assert path.read_text() == before  # reading changes nothing: a benchmark may be writing
    rows.add(name="second")
    assert [row["name"] for row in Rows(path, ("name",)).rows] == ["first", "second"]


def test_auto_that_hands_over_scratch_is_tuned_as_scratch(here, backbone, tmp_path, monkeypatch):
    monkeypatch.setitem(STARTS, "auto", Recipe(lambda problem: Made(problem.scratch)))
    runner = Runner(Rows(tmp_path / "rows.jsonl", KEY), experiment(), backbone)
    problem = Problem("films", "lora", 0, 8, backbone, TUNING)
    asked = []
    monkeypatch.setattr(running, "choose_rate", lambda rows, of, kind, grid, make: asked.append(kind) or 1.0)
    for start in ("auto", "uniform", "scratch"):
        runner._rate(problem, start)
    assert asked == ["scratch", "uniform", "scratch"]


def test_every_start_can_be_made_or_says_why_not(here, backbone):
    problem = Problem("films", "lora", 0, 8, backbone, TUNING)
    problem.modules = problem.modules[:6]
    refused = {}
    for name in STARTS:
        if name in ("auto", "all-data"):
            continue  # minutes long; `auto` has tests of its own
        try:
            made = start_of(problem, name)
        except Exception as error:
            refused[name] = str(error)
            continue
        assert start_of(problem, name) is made
        assert all(bool(torch.isfinite(tensor).all()) for tensor in made.delta.tensors.values()), name
    # target-free needs the whole transfer matrix, which is measured target by target.
    assert sorted(set(refused) - {"target-free"}) == ["category", "oracle"]
    with pytest.raises(UnknownNameError, match="no start named 'soft'"):
        start_of(problem, "soft")


def test_controls_have_the_norms_and_weights_that_they_say(here, backbone):
    problem = Problem("films", "lora", 0, 8, backbone, TUNING)
    start = problem.target.start
    real, random, shuffled = (
        start_of(problem, name).delta for name in ("gradient:first-order", "random-modules", "shuffled-weights")
    )
    name = max(start, key=lambda key: start[key].numel())
    noise, change = random.tensors[name] - start[name], real.tensors[name] - start[name]
    cosine = torch.nn.functional.cosine_similarity(noise.flatten(), change.flatten(), dim=0)
    assert abs(float(cosine)) < 0.1
    assert 0.2 < float(noise.norm() / change.norm()) < 1.5
    assert not torch.equal(shuffled.tensors[name], real.tensors[name])


def test_tunes_are_shared_between_ways_of_keeping(here, backbone):
    from benchmarks.strategies.keeps import kept

    problem = Problem("films", "lora", 0, 8, backbone, TUNING)
    scratch, other = problem.scratch, start_of(problem, "uniform").delta
    kept(problem, "interpolate", scratch, 1e-3, {})
    assert len(problem._paths) == 1
    kept(problem, "average", scratch, 1e-3, {})
    kept(problem, "last", scratch, 1e-3, {})
    assert len(problem._paths) == 1
    kept(problem, "soup:starts", scratch, 1e-3, {"uniform": other})
    assert len(problem._paths) == 2
    kept(problem, "soup", scratch, 1e-3, {})
    assert len(problem._paths) == 4  # two more orders of data
    found = kept(problem, "best:folds", scratch, 1e-3, {})
    assert found.about["folds"] == 4


def test_a_target_is_measured_on_dev_rows_that_were_not_drawn(here, backbone):
    problem = Problem("films", "lora", 0, 8, backbone, TUNING)
    left = [row for row in load_task("films", source="folder").dev if row not in list(problem.task.dev)]
    assert len(left) == 4
    with backbone.use(problem.scratch):
        right = measure(backbone, backbone.encode(left, problem.task.fields)).correct
    assert problem.test(problem.scratch)["held_accuracy"] == pytest.approx(right.mean())
    assert {"held_loss", "accuracy"} <= problem.test(None).keys()


def test_a_draw_of_all_of_dev_leaves_nothing_to_measure_on(here, backbone):
    problem = Problem("films", "lora", 0, 12, backbone, TUNING)
    assert problem.held == []
    assert problem.held_out(problem.scratch) == {}
    assert "held_loss" not in problem.test(None)


def test_a_tune_that_diverges_gives_what_it_began_with(here, backbone, tmp_path, monkeypatch):
    small = experiment().model_dump()
    small["parts"][0] |= {"seeds": [0], "starts": ["uniform"], "as_they_are": [], "keep": []}
    runner = Runner(Rows(tmp_path / "rows.jsonl", KEY), Experiment.model_validate(small), backbone)
    real = Problem.path

    def path(problem, start, rate):
        if rate < 0.1:  # the tunes that choose a rate
            return real(problem, start, rate)
        raise DivergedError("the tune diverged: a tensor is no longer finite")

    monkeypatch.setattr(running, "choose_rate", lambda *_: 1e6)
    monkeypatch.setattr(Problem, "path", path)
    runner.run()
    found = runner.rows.rows[-1]
    assert found["diverged"].startswith("DivergedError")
    assert found["accuracy_best"] == found["accuracy_tuned"] == found["accuracy_step60"] == found["accuracy_step0"]
    runner.run()
    assert runner.rows.rows[-1] is found  # it is not tried again


def test_starts_of_others_have_a_rate_of_their_own(here, backbone, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(running, "choose_rate", lambda rows, of, kind, grid, make: asked.append(kind) or 1.0)
    more = {"theirs": Recipe(lambda problem: start_of(problem, "uniform"), own_rate=True)}
    runner = Runner(Rows(tmp_path / "rows.jsonl", KEY), experiment(), backbone, more=more)
    runner._rate(Problem("films", "lora", 0, 8, backbone, TUNING), "theirs")
    assert asked == ["theirs"]


def test_files_of_experiments_can_be_read():
    from pathlib import Path

    from benchmarks.strategies import experiment as module

    folder = Path(module.__file__).parent
    report = Experiment.read(folder / "report.json")
    development = Experiment.read(folder.parent / "ensembling" / "development.json")
    targets = TARGETS
    assert {t for part in report.parts for t in part.targets} == set(targets["report"])
    assert {t for part in development.parts for t in part.targets} == set(targets["development"])
    assert report.smoke().parts[0].targets == [targets["development"][-1]]
    assert development.only(["trec"]).parts[0].targets == ["trec"]
