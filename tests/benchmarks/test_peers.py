"""Starts of other libraries: PEFT's against sums worked out here, LoraHub's search, environments, and the report."""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.markdown import NOTHING
from benchmarks.peers import by_lorahub, by_mergekit, by_peft, environments, report
from benchmarks.peers.__main__ import smoke
from benchmarks.peers.environments import Environment, PeerError
from benchmarks.peers.names import LIBRARIES, library
from benchmarks.peers.starts import PEERS, peer
from benchmarks.rows import Rows
from benchmarks.strategies.experiment import Experiment
from benchmarks.strategies.problem import Made
from benchmarks.strategies.rates import KEY
from benchmarks.strategies.running import Runner
from benchmarks.strategies.starts import STARTS, Recipe, start_of
from transfer.backbones import load_backbone
from transfer.deltas import Delta, LoRA
from transfer.ensembling import merge
from transfer.exporting import export_merged
from transfer.similarity import ESTIMATORS
from transfer.training.measuring import measure
from zoo import Zoo

EXPERIMENT = Experiment.read(report.HERE / report.CONFIG)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def modules():
    return Zoo.starter().find(method="lora")[:3]


@pytest.fixture(scope="module")
def problem(backbone, modules):
    """What the peers use of a problem."""
    rows = [("a dull film that drags", 0), ("warm and funny", 1), ("tired jokes", 0), ("a joy to watch", 1)]
    task = [{"input": text, "choices": ["negative", "positive"], "label": label} for text, label in rows]
    target = SimpleNamespace(encoded=backbone.encode(task), start=dict(modules[0].start()))
    return SimpleNamespace(backbone=backbone, modules=modules, seed=3, target=target, starts={})


def products(tensors, scale):
    """Place -> scale * B @ A."""
    places = sorted({name.rpartition(".")[0] for name in tensors})
    return {p: scale * tensors[f"{p}.lora_B"].float() @ tensors[f"{p}.lora_A"].float() for p in places}


WEIGHTS = (0.5, 0.3, 0.2)


def combined(backbone, modules, how, **options):
    weights = {module.id: weight for module, weight in zip(modules, WEIGHTS, strict=True)}
    delta = by_peft.combine(backbone.model, modules, weights, how, options=options)
    place = next(iter(products(delta.tensors, 1)))
    return delta, products(delta.tensors, delta.method.scale(place))


def exact(modules):
    """Weighted sum of the products: what `svd` of full rank and `cat` stand for."""
    found = [products(dict(module.tensors()), 2.0) for module in modules]
    return {p: sum(w * one[p] for w, one in zip(WEIGHTS, found, strict=True)) for p in found[0]}


def assert_alike(found, expected):
    assert set(found) == set(expected)
    for place, value in expected.items():
        torch.testing.assert_close(found[place], value, rtol=1e-3, atol=1e-5)


def test_cat_of_peft_is_the_sum_of_the_products(backbone, modules):
    delta, found = combined(backbone, modules, "cat")
    assert delta.method.rank == 24
    assert_alike(found, exact(modules))


def test_svd_of_peft_is_the_best_of_its_rank(backbone, modules):
    delta, found = combined(backbone, modules, "svd")
    assert delta.method.rank == 8
    expected = {}
    for place, value in exact(modules).items():
        u, s, v = torch.linalg.svd(value)
        expected[place] = u[:, :8] * s[:8] @ v[:8]
    assert_alike(found, expected)


def test_linear_of_peft_sums_a_and_b_under_roots_of_the_weights(backbone, modules):
    _, found = combined(backbone, modules, "linear")
    sums = {}
    for weight, module in zip(WEIGHTS, modules, strict=True):
        for name, tensor in module.tensors(dtype=torch.float32).items():
            sums[name] = sums.get(name, 0) + (weight * 2.0) ** 0.5 * tensor
    assert_alike(found, products(sums, 1.0))


@pytest.mark.parametrize("how", ["ties", "dare_ties"])
def test_sparse_ways_of_peft_give_a_start_and_the_same_twice(backbone, modules, how):
    first, second = (combined(backbone, modules, how, density=0.2)[0] for _ in range(2))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert any(tensor.any() for tensor in first.tensors.values())


def test_peft_leaves_the_backbone_as_it_was(backbone, modules):
    def state():
        model = backbone.model
        kinds = {name: type(module) for name, module in model.named_modules()}
        grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        return kinds, grads, {name: tensor.clone() for name, tensor in model.state_dict().items()}, model.training

    kinds, grads, tensors, training = state()
    combined(backbone, modules, "svd")
    with pytest.raises(ValueError, match="nonsense"):
        combined(backbone, modules, "nonsense")
    now = state()
    assert (kinds, grads, training) == (now[0], now[1], now[3])
    assert all(torch.equal(tensors[name], now[2][name]) for name in tensors)


class FakeLoraHub:
    """The interface of `lorahub.algorithm`: it tries what it was told to, and recommends the best."""

    def __init__(self, tried, bound=1.5):
        self.tried, self.values, self.bound = tried, [], bound
        self.load_base_model_and_lora_modules = self.load_dataset = self.theirs

    def theirs(self, *words):
        raise AssertionError("it loads T5")

    def lorahub_learning(self, names, inputs, outputs, steps, get_loss, seed, batch_size=None):
        from peft.utils.save_and_load import set_peft_model_state_dict

        self.asked = {"steps": steps, "seed": seed, "names": names}
        np.random.seed(seed)
        model, _, cache = self.load_base_model_and_lora_modules(names, None)
        dataset = self.load_dataset(inputs, outputs, None)
        assert list(cache) == names
        for weights in self.tried:
            state = {}
            for weight, name in zip(weights, names, strict=True):
                for key, tensor in cache[name].items():
                    state[key] = state.get(key, 0) + weight * tensor
            told = set_peft_model_state_dict(model, state)
            assert not told.unexpected_keys
            self.values.append(get_loss(dataset, model, batch_size) + 0.05 * sum(map(abs, weights)) / len(weights))
        return np.array(self.tried[int(np.argmin(self.values))]), model.merge_and_unload(), None


TRIED = [(0.0, 0.0, 0.0), (0.4, -0.2, 0.6), (1.5, 0.0, 0.0)]


def test_the_loss_of_lorahub_is_that_of_raw_sums_on_the_training_examples(problem):
    fake = FakeLoraHub(TRIED)
    before = {name: tensor.clone() for name, tensor in problem.backbone.model.state_dict().items()}
    drawn = np.random.get_state()[1].copy()
    weights, about = by_lorahub.learn(fake, problem, problem.modules)
    assert fake.asked == {"steps": 40, "seed": 3, "names": [module.id for module in problem.modules]}
    expected = []
    for values in TRIED:
        given = dict(zip(weights, values, strict=True))
        with problem.backbone.use(merge(problem.modules, given, "published")):
            loss = measure(problem.backbone, problem.target.encoded).loss
        expected.append(loss + 0.05 * np.abs(values).mean())
    assert fake.values == pytest.approx(expected, rel=0.02)  # PEFT rounds to bf16 at other places
    assert np.diff(sorted(expected)).min() > 0.1
    assert tuple(weights.values()) == TRIED[int(np.argmin(expected))]
    assert about["evaluations"] == 3
    assert about["lowest_loss"] <= min(expected)
    after = problem.backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (np.random.get_state()[1] == drawn).all()
    assert fake.load_dataset == fake.theirs


def test_weights_of_lorahub_outside_its_bounds_are_refused(problem):
    with pytest.raises(PeerError, match="within"):
        by_lorahub.learn(FakeLoraHub([(1.6, 0.0, 0.0)]), problem, problem.modules)


def test_lorahub_draws_twenty_modules_without_looking_at_the_target():
    there = [SimpleNamespace(id=str(number)) for number in range(34)]
    drawn = [[module.id for module in by_lorahub.draw(there, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert len(by_lorahub.draw(there[:3], 0)) == 3


def test_a_whole_model_is_the_same_as_a_lora_of_full_rank(backbone, modules, tmp_path):
    backbone.model.save_pretrained(tmp_path / "base")
    export_merged(modules[0], tmp_path / "whole", backbone)
    base, whole = (load_file(tmp_path / name / by_mergekit.FILE) for name in ("base", "whole"))
    places = sorted(products(dict(modules[0].tensors()), 1))
    delta = by_mergekit.as_lora(base, whole, places, backbone.model)
    assert_alike(products(delta.tensors, delta.method.scale(places[0])), products(dict(modules[0].tensors()), 2.0))
    with pytest.raises(PeerError, match=r"also differs at encoder\.layer\.1\."):
        by_mergekit.as_lora(base, whole, [place for place in places if ".1." not in place], backbone.model)


def test_biases_beside_an_extracted_lora_are_left_out_where_they_are_nothing(tmp_path):
    file = tmp_path / by_mergekit.LORA_FILE
    a, bias = torch.ones(2, 3), torch.zeros(4)
    save_file({"a.lora_A.weight": a, "a.lora_B.bias": bias}, file)
    by_mergekit.without_biases(file)
    assert list(load_file(file)) == ["a.lora_A.weight"]
    save_file({"a.lora_A.weight": a, "a.lora_B.bias": bias + 0.1}, file)
    with pytest.raises(PeerError, match="changes a bias"):
        by_mergekit.without_biases(file)


def test_a_recipe_of_mergekit_gives_every_model_the_same_weight():
    assert by_mergekit.recipe("linear", ["a", "b"], "base") == {
        "merge_method": "linear",
        "dtype": "float32",
        "models": [{"model": name, "parameters": {"weight": 1.0}} for name in ("a", "b")],
    }
    ties = by_mergekit.recipe("ties", ["a"], "base")
    assert ties["base_model"] == "base"
    assert ties["models"][0]["parameters"] == {"weight": 1.0, "density": 0.2}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(environments, "_FAILED", {})
    return tmp_path


def fake_run(calls, answer):
    def run(command, environment):
        calls.append(command)
        code, out, error = answer(command)
        return subprocess.CompletedProcess(command, code, out, error)

    return run


def test_an_environment_is_made_once_and_its_script_answers_in_json(cache, monkeypatch):
    calls: list[list[str]] = []
    answers = fake_run(calls, lambda command: (0, 'noise\n{"seconds": 2.5}\n' if "-P" in command else "", ""))
    monkeypatch.setattr(environments, "_run", answers)
    environment = Environment("some", ("some==1.0",))
    environment.folder.mkdir(parents=True)
    (environment.folder / "left by one that was killed").touch()
    assert environment.run("inside_some", "word") == {"seconds": 2.5}
    assert [path.name for path in environment.folder.iterdir()] == [environments.MADE]
    assert environment.run("inside_some", "word") == {"seconds": 2.5}
    assert [command[2] for command in calls] == ["venv", "pip", "-m", "-m"]
    assert calls[-1][-3:] == ["-m", "benchmarks.peers.inside_some", "word"]
    assert Environment("some", ("some==1.1",)).folder != environment.folder


def test_what_pip_says_is_the_reason_and_it_is_not_tried_again(cache, monkeypatch):
    calls: list[list[str]] = []
    said = "WARNING: old\nERROR: No matching distribution found for some==1.0\nnotice: new pip"
    monkeypatch.setattr(environments, "_run", fake_run(calls, lambda c: (1, "", said) if "pip" in c else (0, "", "")))
    environment = Environment("some", ("some==1.0",))
    for _ in range(2):
        with pytest.raises(PeerError, match=r"some==1.0: ERROR: No matching distribution found"):
            environment.run("inside_some")
    assert len(calls) == 2
    assert not environment.folder.exists()


def failing(problem):
    raise PeerError("no environment with some==1.0: ERROR: No matching distribution found for some==1.0")


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of tasks with one of the development targets in it."""
    folder = tmp_path / "tasks" / "tweet_irony"
    folder.mkdir(parents=True)
    rows = [
        {"input": f"text: {word} news", "choices": ["no", "yes"], "label": n % 2} for n, word in enumerate("abcdef")
    ]
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {"name": "tweet_irony", "kind": "classification", "choices": ["no", "yes"], "category": "other"}
    (folder / "task.json").write_text(json.dumps(said))
    monkeypatch.setenv("TRANSFER_TASKS", str(folder.parent))


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_becomes_a_row_with_the_reason(backbone, tasks, tmp_path):
    part = {"methods": ["lora"], "examples": [4], "seeds": [0], "targets": ["tweet_irony"], "starts": []}
    experiment = Experiment(parts=[part | {"as_they_are": ["mergekit:linear", "lorahub", "scratch"]}])
    more = {"mergekit:linear": peer(failing), "lorahub": peer(lambda problem: [][1])}
    rows = Rows(tmp_path / "rows.jsonl", KEY)
    with pytest.raises(SystemExit, match="2 runs failed"):
        Runner(rows, experiment, backbone, more=more).run()
    found = {row["start"]: row for row in Rows(rows.path, KEY).rows}
    reason = "PeerError: no environment with some==1.0: ERROR: No matching distribution found for some==1.0"
    assert found["mergekit:linear"]["error"] == reason
    assert "IndexError: list index out of range" in found["lorahub"]["error"]
    assert found["scratch"]["start_mib"] < 20  # nothing is made
    assert "accuracy_step0" in found["scratch"]


def test_a_start_made_elsewhere_keeps_its_seconds_and_its_memory():
    made = Made(Delta(LoRA(), {}), {"start_mib": 7}, seconds=2.5)
    problem = SimpleNamespace(starts={})
    found = start_of(problem, "other", {"other": Recipe(lambda problem: made)})
    assert (found.seconds, found.about["start_mib"]) == (2.5, 7)
    quick = dataclasses.replace(made, seconds=0.0, about={})

    def large(problem):
        torch.ones(512 * 2**20 // 4).sum()  # 512 MiB for a moment
        return quick

    gc.collect()  # what is freed in between would hide some of it
    found = start_of(problem, "ours", {"ours": Recipe(large)})
    assert found.seconds < 5
    assert 256 < found.about["start_mib"] < 1024


def row(start, target, seed, accuracy, keep="best", method="lora", **more):
    run = {"stage": "run", "target": target, "method": method, "start": start, "keep": keep, "seed": seed}
    run |= {"examples": 64, "tuning": str(EXPERIMENT.tuning), "seconds_start": 3.0, "seconds": 9.0}
    if isinstance(accuracy, str):
        return run | {"error": accuracy}
    names = ("step0", "step60", "best") if keep else ("step0",)
    return run | {f"accuracy_{name}": accuracy for name in names} | more


ROWS = [
    *(row("scratch", target, seed, 0.5) for target in ("snli", "sst2") for seed in (0, 1)),
    *(row("uniform", target, seed, 0.6) for target in ("snli", "sst2") for seed in (0, 1)),
    *(
        row("peft:svd", target, seed, 0.55, start_mib=900, peer_versions={"peft": "0.21.2"})
        for target in ("snli", "sst2")
        for seed in (0, 1)
    ),
    row("peft:cat", "snli", 0, 0.7, keep=None),
    *(row("auto", target, seed, 0.66) for target in ("snli", "sst2") for seed in (0, 1)),
    *(row("mergekit:linear", target, 0, "PeerError: no wheel") for target in ("snli", "sst2")),
    row("uniform", "snli", 2, 0.1),  # a seed, a target, a tuning and a start that the experiment does not ask for
    row("uniform", "trec", 0, 0.1),
    row("uniform", "snli", 0, 0.1) | {"tuning": "1/1/1/1"},
    row("greedy", "snli", 0, 0.1),
]


def test_the_table_has_ours_beside_theirs_with_gains_and_costs():
    lines = {line[0]: line[1:] for line in report.table_rows(report.runs(report.within(ROWS, EXPERIMENT), "lora", 64))}
    assert list(lines) == ["auto", "uniform", "peft:svd", "scratch", "peft:cat"]
    assert lines["uniform"][:5] == ["transfer", "2", "0.600", "0.600", "0.600"]
    assert lines["uniform"][5] == "+20.0% (+20.0 to +20.0)"
    assert lines["peft:svd"] == [
        *["peft", "2", "0.550", "0.550", "0.550"],
        *["+10.0% (+10.0 to +10.0)"] * 2,
        *["+20.0% (+20.0 to +20.0)", "3.0", "900"],
    ]
    assert lines["scratch"][5:8] == ["-", "-", "+32.0% (+32.0 to +32.0)"]
    assert lines["auto"][7] == "-"
    assert lines["peft:cat"][:7] == ["peft", "1", "0.700", "-", "-", "-", "-"]


def test_the_page_names_what_could_not_be_run_and_the_versions():
    page = report.page(ROWS, EXPERIMENT)
    assert "- `mergekit:linear` (lora) could not be run, 2 of its runs: PeerError: no wheel" in page
    assert "Made by peft 0.21.2." in page
    assert "greedy" not in page
    assert report.page([one for one in ROWS if library(one["start"]) == "transfer"], EXPERIMENT) == NOTHING
    assert report.page([], EXPERIMENT) == NOTHING


def test_rows_of_another_benchmark_count_as_done_and_are_not_written(tmp_path):
    ours, theirs = Rows(tmp_path / "ours.jsonl", KEY), Rows(tmp_path / "theirs.jsonl", KEY)
    ours.add(**row("uniform", "snli", 0, 0.6))
    theirs.add(**row("uniform", "snli", 0, 0.1))
    theirs.add(**row("scratch", "snli", 0, 0.5))
    theirs.add(**row("greedy", "snli", 0, "RuntimeError: once"))  # failed: to be run
    ours.join(theirs)
    assert [(one["start"], one["accuracy_best"]) for one in ours.rows] == [("uniform", 0.6), ("scratch", 0.5)]
    assert len(Rows(ours.path, KEY).rows) == 1


def test_every_start_of_the_experiment_can_be_made_by_someone():
    known = {*STARTS, *PEERS, *ESTIMATORS.names()}
    asked = {start for part in EXPERIMENT.parts for start in (*part.starts, *part.as_they_are)}
    assert asked <= known
    assert set(PEERS) <= asked
    assert {library(start) for start in asked} == {"transfer", *LIBRARIES}


def test_the_smoke_has_every_peer_on_a_development_target():
    small = smoke(EXPERIMENT)
    starts = {start for part in small.parts for start in (*part.starts, *part.as_they_are)}
    assert starts == {*PEERS, "scratch", "uniform"}
    assert {target for part in small.parts for target in part.targets} == {"tweet_irony"}
