"""Starts by other libraries: PEFT for real, environments that cannot be made, what the table says."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.peers import environments, starts
from benchmarks.peers.costs import cost_rows
from benchmarks.strategies.experiment import Experiment
from benchmarks.strategies.problem import Problem, Tuning
from benchmarks.strategies.starts import STARTS, start_of
from transfer.errors import ConfigError
from transfer.similarity import ESTIMATORS


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    from transfer.backbones import load_backbone

    folder = tmp_path_factory.mktemp("tasks")
    (folder / "films").mkdir()
    about = {"name": "films", "category": "sentiment", "kind": "classification", "metric": "accuracy"}
    (folder / "films" / "task.json").write_text(json.dumps({**about, "license": "CC0-1.0"}))
    for split in ("train", "dev", "test"):
        rows = [{"input": f"{split} {i} good", "choices": ["bad", "good"], "label": i % 2} for i in range(8)]
        (folder / "films" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFER_TASKS", str(folder))
        made = Problem("films", "lora", 0, 4, load_backbone(), Tuning(steps=2, check=1, patience=None))
    made.modules = made.modules[:3]
    return made


def products(delta):
    """place -> scale * B A."""
    found = {}
    for name, a in delta.tensors.items():
        if name.endswith("lora_A"):
            b = delta.tensors[name.replace("lora_A", "lora_B")]
            found[name] = delta.method.alpha / delta.method.rank * (b.double() @ a.double())
    return found


def test_the_svd_of_peft_is_the_exact_sum_cut_to_rank_eight(problem):
    made = start_of(problem, "peft:svd", {**STARTS, **starts.PEERS})
    assert made.about["peer_version"].startswith("peft 0.")
    assert made.seconds == pytest.approx(made.about["peer_seconds_load"] + made.about["peer_seconds_merge"], abs=0.01)
    ours = [products(problem.delta(module.tensors(dtype=torch.float32))) for module in problem.modules]
    theirs = products(made.delta)
    assert theirs.keys() == ours[0].keys()
    assert theirs
    for name, found in theirs.items():
        u, s, v = torch.linalg.svd(sum(product[name] for product in ours) / 3)
        expected = u[:, :8] * s[:8] @ v[:8]
        assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_an_environment_that_cannot_be_made_says_what_pip_said(monkeypatch, tmp_path):
    monkeypatch.setattr(environments.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    with pytest.raises(ConfigError, match="odd cannot be installed") as caught:
        environments.environment("odd", ["--no-index", "no-such-package"])
    assert "no-such-package" in str(caught.value)


def test_a_script_that_fails_says_so(tmp_path):
    with pytest.raises(ConfigError, match=r"with_peft.py failed"):
        environments.run_elsewhere(environments.same_python(), "with_peft.py", {"modules": {}})


def test_costs_are_means_over_runs():
    row = {"start": "peft:svd", "peer_version": "peft 1", "peer_seconds_load": 1.0, "peer_memory_mib": 10}
    rows = [{**row, "peer_seconds_merge": 1.0}, {**row, "peer_seconds_merge": 2.0, "peer_memory_mib": 30}]
    assert cost_rows([*rows, {"start": "scratch"}]) == [["peft:svd", "peft 1", "2", "1.00", "1.50", "30"]]


def test_every_start_of_the_experiment_is_known():
    from pathlib import Path

    found = Experiment.read(Path(starts.__file__).parent / "peers.json")
    known = {*STARTS, *starts.PEERS, *ESTIMATORS.names()}
    assert {name for part in found.parts for name in part.starts} <= known
    assert set(starts.PEERS) <= {name for part in found.parts for name in part.starts}
