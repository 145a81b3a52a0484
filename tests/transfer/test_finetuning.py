"""A whole fine-tuning: from any start, kept, stored, gone on with after a kill."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import small
import tiny
import torch

from transfer import evaluate, finetune, initialize
from transfer.deltas import LoRA
from transfer.deltas.delta import Delta
from transfer.errors import ConfigError, DataError, DeltaError, DivergedError, UnknownNameError
from transfer.resolving import load_start
from transfer.starts import start_behind
from zoo import FingerprintError, Module, PathError, Zoo, ZooView

QUICK = {"steps": 4, "batch_size": 8, "eval_every": 2}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name].float(), right[name].float()) for name in left)


@pytest.mark.parametrize("method", ["lora", "adapter", "compacter", "parallel-adapter", "prefix"])
def test_from_scratch(method, small_zoo):
    backbone, zoo = small_zoo("bert", method)
    task = small.toy_target()
    found = finetune(task, backbone, method=method, zoo=zoo, measure_start=True, **QUICK)
    assert found.start == "scratch"
    assert backbone.delta is None
    assert [row["step"] for row in found.tuned.history] == [0, 2, 4]
    shared = Delta(found.delta.method, dict(next(iter(zoo)).start()))
    assert found.before.metrics == evaluate(task, backbone, shared).metrics  # scratch is the start of the zoo's modules
    assert found.after.metrics == evaluate(task, backbone, found).metrics
    assert found.tuned.best_step == min(found.tuned.history, key=lambda row: row["calibrated"])["step"]
    card = found.module.card
    assert (card.task, card.category, card.method, card.fingerprint) == (
        "toy",
        "sentiment",
        method,
        backbone.fingerprint,
    )
    assert card.metrics["test"] == found.after.metrics
    assert card.metrics["dev"]["calibrated"] == min(row["calibrated"] for row in found.tuned.history)
    assert card.provenance["started_from"] == "scratch"


def test_without_a_zoo_scratch_is_the_draw_of_the_method(small_zoo):
    backbone, _ = small_zoo()
    found = finetune(small.toy_target(), backbone, method=LoRA(rank=2), learning_rate=1e-30, **QUICK)
    assert equal(found.delta.tensors, LoRA(rank=2).draw(backbone.model))
    assert found.module.card.settings["rank"] == 2


def test_from_an_initialization(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    task, own = small.toy_target(), Zoo(tmp_path / "zoo")
    begin = initialize(task, zoo, backbone, guard=False)
    found = finetune(task, backbone, begin, zoo=zoo, add_to=own, measure_start=True, **QUICK)
    assert found.before.metrics == evaluate(task, backbone, begin).metrics
    assert found.start == begin.name
    assert found.module.card.provenance["started_from"] == begin.name
    # It was tuned from a mean of modules; what it is compared with stays the start that these share.
    assert equal(dict(found.module.start()), dict(next(iter(zoo)).start()))
    assert found.module.card.start == begin.recipe["start"]


def test_a_start_of_that_name_with_other_tensors_is_not_the_one_behind(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    begin = initialize(small.toy_target(), zoo, backbone, guard=False)
    method, name, own = begin.delta.method, begin.recipe["start"], Zoo(tmp_path / "zoo")
    other = method.draw(backbone.model, 8)
    assert own.add_start("lora", method.start_settings(backbone.model), backbone.fingerprint, other) == name
    assert start_behind(begin, own) is None
    shared = dict(zoo.get_start(name))
    for start in (begin, load_start(str(begin.save(tmp_path / "begin")), zoo)):
        assert equal(start_behind(start, ZooView([own, ZooView([zoo])])), shared)
    del begin.recipe["start_sha256"]  # as in recipes written before it was kept
    assert equal(start_behind(begin, own), other)


def test_from_a_stored_module(small_zoo):
    backbone, zoo = small_zoo()
    task, module = small.toy_target(), next(iter(zoo))
    found = finetune(task, backbone, module, learning_rate=1e-30, keep="last", **QUICK)
    assert found.start == module.id
    assert equal(found.delta.tensors, module.tensors(torch.float32))
    assert found.delta.settings["places"] == module.card.settings["places"]


def test_from_what_a_command_reads(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    task = small.toy_target()
    folder = initialize(task, zoo, backbone, guard=False).save(tmp_path / "begin")
    begin = load_start(str(folder), zoo)
    found = finetune(task, backbone, begin, zoo=zoo, add_to=Zoo(tmp_path / "zoo"), **QUICK)
    assert found.start == str(folder)
    assert equal(dict(found.module.start()), dict(next(iter(zoo)).start()))


def test_from_the_result_of_another_fine_tuning(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    first = finetune(small.toy_target(), backbone, zoo=zoo, **QUICK)
    own = Zoo(tmp_path / "zoo")
    second = finetune(small.toy_target(), backbone, first, zoo=zoo, add_to=own, learning_rate=1e-30, **QUICK)
    assert equal(second.delta.tensors, first.delta.tensors)
    assert second.start == first.module.id
    assert equal(dict(second.module.start()), dict(next(iter(zoo)).start()))


def test_what_is_saved_and_added_later_still_knows_its_start(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    folder = finetune(small.toy_target(), backbone, zoo=zoo, **QUICK).save(tmp_path / "result")
    stored = Zoo(tmp_path / "zoo").add(Module.load(folder))
    assert equal(dict(stored.start()), dict(next(iter(zoo)).start()))
    assert stored.card.start == next(iter(zoo)).card.start


@pytest.mark.parametrize("saved", [False, True])
def test_a_module_knows_its_own_start_whatever_lies_under_that_name_elsewhere(saved, small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    module, own = next(iter(zoo)), Zoo(tmp_path / "own")
    method = LoRA()
    other = method.draw(backbone.model, 8)
    name = own.add_start("lora", method.start_settings(backbone.model), backbone.fingerprint, other)
    assert name == module.card.start
    begin = module.id
    if saved:
        begin = str(finetune(small.toy_target(), backbone, zoo=zoo, **QUICK).save(tmp_path / "result"))
    view = ZooView([own, zoo])
    assert equal(start_behind(load_start(begin, zoo), view), dict(module.start()))


def test_what_is_added_has_signature_and_start(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    own = Zoo(tmp_path / "zoo")
    found = finetune(small.toy_target(), backbone, zoo=zoo, add_to=own, **QUICK)
    stored = own.get(found.module.id)
    assert set(stored.signature.holds) == {
        "centroid",
        "variance",
        "examples",
        "weight_sketch",
        "gradient_sketch",
        "block_norms",
    }
    assert stored.card.start is not None
    assert equal(dict(stored.start()), dict(next(iter(zoo)).start()))
    assert own.verify() == []
    again = finetune(small.toy_target(name="again"), backbone, add_to=own, zoo=zoo, seed=1, **QUICK)
    assert again.module.card.start == stored.card.start
    weights = initialize(small.toy_target(name="other"), own, backbone, guard=False).recipe["weights"]
    assert set(weights) == {stored.id, again.module.id}


def test_a_zoo_with_another_start_of_that_name_takes_the_result_with_its_own(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    method, own = LoRA(), Zoo(tmp_path / "zoo")
    other = method.draw(backbone.model, 8)
    name = own.add_start("lora", method.start_settings(backbone.model), backbone.fingerprint, other)
    found = finetune(small.toy_target(), backbone, next(iter(zoo)), add_to=own, **QUICK)
    assert found.module.card.start not in (None, name)
    assert equal(dict(own.get(found.module.id).start()), dict(next(iter(zoo)).start()))
    assert equal(dict(own.get_start(name)), other)
    assert own.verify() == []


def test_a_start_of_unknown_origin_leaves_the_module_without_one(small_zoo, tmp_path):
    backbone, _ = small_zoo()
    method = LoRA()
    begin = Delta(method, {name: value + 0.01 for name, value in method.draw(backbone.model).items()})
    found = finetune(small.toy_target(), backbone, begin, add_to=Zoo(tmp_path / "zoo"), **QUICK)
    assert found.module.card.start is None
    assert found.module.start() is None
    assert found.module.signature.centroid is not None


def test_keep_last_and_keep_best(small_zoo):
    backbone, zoo = small_zoo()
    run = {**QUICK, "learning_rate": 3.0, "patience": None, "zoo": zoo}  # every step makes it worse
    best = finetune(small.toy_target(), backbone, keep="best", **run)
    last = finetune(small.toy_target(), backbone, keep="last", **run)
    lowest = min(best.tuned.history, key=lambda row: row["loss"])["step"]
    assert best.tuned.best_step == lowest
    assert not equal(best.delta.tensors, last.delta.tensors) or lowest == 4
    end = last.tuned.history[-1]
    assert last.tuned.best_step == end["step"] == 4
    assert last.module.card.metrics["dev"]["loss"] == end["loss"]
    if lowest == 0:
        assert equal(best.delta.tensors, dict(next(iter(zoo)).start()))
    with pytest.raises(UnknownNameError, match="no way to keep named 'first'"):
        finetune(small.toy_target(), backbone, keep="first", **QUICK)


def test_no_patience_goes_to_the_end(small_zoo):
    backbone, zoo = small_zoo()
    run = {"steps": 8, "batch_size": 8, "eval_every": 1, "learning_rate": 3.0, "zoo": zoo}
    assert finetune(small.toy_target(), backbone, patience=None, **run).tuned.steps == 8
    assert finetune(small.toy_target(), backbone, patience=1, **run).tuned.steps < 8


def for_a_kill(folder=None, backbone=None):
    backbone = backbone or tiny.tiny_backbone("bert")
    return finetune(
        small.toy_target(), backbone, method=LoRA(dropout=0.2), steps=9, batch_size=8, eval_every=3, folder=folder
    )


def die(folder, step):
    """For a process of its own: it gets SIGKILL at the end of a training step."""
    from transfer.training import trainer

    def end(self, args, state, control, **kwargs):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer._Progress.on_step_end = end
    for_a_kill(folder)


def test_a_killed_run_goes_on_and_gives_the_same_module(tmp_path):
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[1]), str(here.parents[0]), str(here)])
    code = "import sys, test_finetuning as t; t.die(t.Path(sys.argv[1]), 7)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "run" / "checkpoint-6").is_dir()
    resumed, whole = for_a_kill(tmp_path / "run"), for_a_kill()
    assert resumed.module.id == whole.module.id
    assert resumed.tuned.history == whole.tuned.history
    assert resumed.after.metrics == whole.after.metrics


def test_saved_loaded_and_replaced(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    first = finetune(small.toy_target(), backbone, zoo=zoo, **QUICK)
    other = finetune(small.toy_target(), backbone, method="lora", zoo=zoo, seed=5, **QUICK)
    folder = first.save(tmp_path / "result")
    loaded = Module.load(folder)
    assert loaded.id == first.module.id
    assert equal(loaded.tensors(torch.float32), first.module.tensors(torch.float32))
    assert evaluate(small.toy_target(), backbone, loaded).metrics == pytest.approx(first.after.metrics, abs=1e-4)
    with pytest.raises(PathError):
        other.save(folder)
    assert Module.load(folder).id == first.module.id
    other.save(folder, replace=True)
    assert Module.load(folder).id == other.module.id
    (folder / "mine.txt").write_text("a note")
    with pytest.raises(PathError, match=r"mine\.txt"):
        first.save(folder, replace=True)
    assert (folder / "mine.txt").read_text() == "a note"


def test_a_start_of_another_backbone_is_refused(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    foreign = tiny.tiny_backbone("bert", seed=1)
    begin = initialize(small.toy_target(), zoo, backbone, guard=False)
    read = load_start(str(begin.save(tmp_path / "begin")), zoo)
    for start in (next(iter(zoo)), begin, read):
        with pytest.raises(FingerprintError, match=r"backbone (than )?'tiny-bert'"):
            finetune(small.toy_target(), foreign, start, **QUICK)
    assert foreign.delta is None


@pytest.mark.parametrize("keep", ["best", "mixing"])
def test_a_caller_may_have_turned_gradients_off(keep, small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    run = {"keep": keep, "zoo": zoo, **QUICK}
    with torch.inference_mode():
        found = finetune(small.toy_target(), backbone, add_to=Zoo(tmp_path / "zoo"), **run)
    assert found.module.id == finetune(small.toy_target(), backbone, **run).module.id


def test_a_split_that_cannot_be_measured_is_refused_before_any_work(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    task, run = small.toy_target(), {"folder": tmp_path / "run", "zoo": zoo, **QUICK}
    hidden = task.test.map(lambda row: {"label": -1})
    sure = task.train.map(lambda row: {"choices": ["yes"], "label": 0})
    for changes, options, kind, what in [
        ({}, {"split": "tset"}, ConfigError, "no split 'tset'"),
        ({"test": task.test.select([])}, {}, DataError, "test split of 'toy' is empty"),
        ({"test": hidden}, {}, DataError, "without a label"),
        ({"test": task.test.map(lambda row: {"label": 2})}, {}, DataError, "without a label"),
        ({"train": sure}, {}, DataError, "train split of 'toy' has one choice only"),
        ({"test": sure}, {}, DataError, "test split of 'toy' has one choice only"),
        ({}, {"eval_every": 0}, ConfigError, "eval_every must be at least 1"),
    ]:
        with pytest.raises(kind, match=what):
            finetune(dataclasses.replace(task, **changes), backbone, **{**run, **options})
    assert not (tmp_path / "run").exists()


def test_after_a_diverged_run_a_smaller_rate_may_take_its_folder(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    run = {"keep": "soup", "folder": tmp_path / "run", "zoo": zoo, **QUICK}
    with pytest.raises(DivergedError, match="smaller learning rate"):
        finetune(small.toy_target(), backbone, learning_rate=1e38, **run)
    assert finetune(small.toy_target(), backbone, learning_rate=1e-3, **run).kept["name"] == "soup"


def test_what_cannot_be_a_start(small_zoo):
    backbone, _ = small_zoo()
    with pytest.raises(DeltaError, match="a str holds no delta"):
        finetune(small.toy_target(), backbone, "boolq-lora", **QUICK)
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        finetune(small.toy_target(), backbone, method="lora2", **QUICK)
