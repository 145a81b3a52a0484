"""A tune that was killed goes on and ends where it would have."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from transfer.deltas import LoRA
from transfer.errors import ConfigError
from transfer.training import TuneSettings, tune
from transfer.training.run_folder import Snapshots, forget, last_checkpoint

METHOD = LoRA(rank=2, dropout=0.2)  # dropout: the random state has to go on, too
SETTINGS = TuneSettings(steps=14, batch_size=4, learning_rate=1e-2, eval_every=3, seed=1)


def run(folder=None, keep="best", settings=SETTINGS, backbone=None, train=None, start_seed=0):
    backbone = backbone or tiny.tiny_backbone("bert")
    train = train or backbone.encode(tiny.sentiment_rows(20))
    dev = backbone.encode(tiny.sentiment_rows(10, seed=1))
    start = METHOD.draw(backbone.model, start_seed)
    return tune(backbone, METHOD, train, tensors=start, dev=dev, settings=settings, keep=keep, folder=folder)


def same(first, second):
    return (
        first.history == second.history
        and first.best_step == second.best_step
        and first.steps == second.steps
        and all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    )


def die(folder, step):
    """For a process of its own: run both ways, each in a child that gets SIGKILL at the end of a training step."""
    from transfer.training import trainer

    def end(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer._Progress.on_step_end = end
    for keep in ("best", "last"):
        child = os.fork()
        if child == 0:
            run(folder / keep, keep)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folders of two runs whose process was killed at step 11 of 14, by what they keep."""
    folder = tmp_path_factory.mktemp("killed")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[2]), str(here.parents[1]), str(here)])
    code = "import sys, test_resuming as t; t.die(t.Path(sys.argv[1]), 11)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_killed_run_ends_where_it_would_have(killed, tmp_path, keep):
    folder = shutil.copytree(killed / keep, tmp_path / keep)
    assert last_checkpoint(folder)[1].global_step == 9
    assert same(run(folder, keep), run(keep=keep))


def test_half_a_checkpoint_is_passed_over(killed, tmp_path):
    folder = shutil.copytree(killed / "best", tmp_path / "run")
    half = folder / "checkpoint-12"
    shutil.copytree(folder / "checkpoint-9", half)
    state = (half / "trainer_state.json").read_text()
    (half / "trainer_state.json").write_text(state[: len(state) // 2])
    assert last_checkpoint(folder)[1].global_step == 9
    assert same(run(folder), run())


def test_a_run_killed_before_its_first_checkpoint_begins_again(killed, tmp_path):
    folder = shutil.copytree(killed / "best", tmp_path / "run")
    shutil.rmtree(folder / "checkpoint-9")
    assert last_checkpoint(folder) is None
    assert same(run(folder), run())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_finished_run_gives_its_result_again_without_training(tmp_path, monkeypatch, keep):
    first = run(tmp_path / "run", keep)
    backbone = tiny.tiny_backbone("bert")
    monkeypatch.setattr(backbone, "collate", None)
    assert same(run(tmp_path / "run", keep, backbone=backbone), first)


def test_a_run_that_ran_out_of_patience_stays_finished(tmp_path):
    settings = TuneSettings(steps=60, batch_size=4, learning_rate=3.0, eval_every=2, patience=2)
    first = run(tmp_path / "run", settings=settings)
    assert first.steps < 60
    assert same(run(tmp_path / "run", settings=settings), first)


def test_only_the_last_checkpoint_stays(tmp_path):
    run(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.safetensors",
        "checkpoint-14",
        "run.json",
    ]


def test_a_folder_of_another_run_is_refused(killed, tmp_path):
    folder = shutil.copytree(killed / "best", tmp_path / "run")
    other = TuneSettings(**{**SETTINGS.__dict__, "learning_rate": 2e-2})
    with pytest.raises(ConfigError, match="differs in settings"):
        run(folder, settings=other)
    with pytest.raises(ConfigError, match="differs in keep"):
        run(folder, keep="last")
    with pytest.raises(ConfigError, match="differs in start"):
        run(folder, start_seed=1)
    backbone = tiny.tiny_backbone("bert")
    with pytest.raises(ConfigError, match="differs in train"):
        run(folder, train=backbone.encode(tiny.sentiment_rows(21)))
    with pytest.raises(ConfigError, match="differs in backbone"):
        run(folder, backbone=tiny.tiny_backbone("bert", seed=1))
    assert backbone.delta is None


def test_a_broken_note_is_refused_and_not_overwritten(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="holds another run"):
        run(tmp_path)
    assert (tmp_path / "run.json").read_text() == "{"


@pytest.mark.parametrize("name", ["checkpoint-500", "best.safetensors"])
def test_what_another_program_wrote_is_left_alone(tmp_path, name):
    path = tmp_path / name
    if name.startswith("checkpoint"):
        path.mkdir()
        (path / "optimizer.pt").write_text("foreign")
    else:
        path.write_text("foreign")
    with pytest.raises(ConfigError, match="holds checkpoints of another program"):
        run(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_a_folder_may_be_text_and_a_file_is_none(tmp_path):
    assert same(run(str(tmp_path / "run")), run(tmp_path / "run"))
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="cannot be a folder for checkpoints"):
            run(folder)


def test_forgetting_leaves_what_others_wrote_among_the_snapshots(tmp_path):
    kept = tmp_path / "snapshots"
    Snapshots(kept).offer(3, {"weight": torch.ones(1)})
    (kept / "of-the-caller.txt").write_text("text")
    forget(tmp_path)
    assert [path.name for path in kept.iterdir()] == ["of-the-caller.txt"]


def test_without_dev_checkpoints_are_written_on_the_way(tmp_path):
    backbone = tiny.tiny_backbone("bert")
    train = backbone.encode(tiny.sentiment_rows(8))
    start = METHOD.draw(backbone.model)
    steps = []

    def watch(rows, train=False, collate=backbone.collate):
        found = last_checkpoint(tmp_path)
        steps.append(found[1].global_step if found else 0)
        return collate(rows, train)

    backbone.collate = watch
    tune(backbone, METHOD, train, tensors=start, settings=TuneSettings(steps=30, batch_size=4), folder=tmp_path)
    assert 25 in steps
