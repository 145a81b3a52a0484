"""One tune: it learns, it is the same twice, and it leaves everything else as it was."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from transfer.deltas import METHODS, LoRA
from transfer.errors import BackboneError, ConfigError, DataError, DeltaError, DivergedError
from transfer.training import TuneSettings, measure, trainer, tune
from transfer.training.trainer import _check_device

RATES = {"lora": 1e-2, "adapter": 1e-2, "prefix": 1e-1, "soft-prompt": 1e-1}


@pytest.fixture(scope="module")
def bert():
    return tiny.tiny_backbone("bert")


@pytest.fixture(scope="module")
def rows(bert):
    return bert.encode(tiny.sentiment_rows(24)), bert.encode(tiny.sentiment_rows(16, seed=1))


def run(backbone, rows, method=None, seed=0, **settings):
    method = method or LoRA(rank=2)
    keep = settings.pop("keep", "best")
    dev, folder = settings.pop("dev", None), settings.pop("folder", None)
    settings = {"steps": 8, "batch_size": 8, "learning_rate": 1e-2, **settings}
    start = method.draw(backbone.model, 0)
    chosen = TuneSettings(seed=seed, **settings)
    return tune(backbone, method, rows, tensors=start, dev=dev, keep=keep, settings=chosen, folder=folder)


@pytest.fixture(scope="module")
def against(bert, rows):
    """(train, dev): dev is what the bare backbone says, and training teaches the opposite."""
    said = bert.choice_logits(rows[0]).argmax(dim=1).tolist()
    labelled = list(zip(rows[0], said, strict=True))
    train = [type(row)(row.input, row.choices, 1 - label) for row, label in labelled]
    return train, [type(row)(row.input, row.choices, label) for row, label in labelled]


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
@pytest.mark.parametrize("name", METHODS.names())
def test_tune_lowers_the_loss(arch, name):
    backbone = tiny.tiny_backbone(arch)
    train = backbone.encode(tiny.sentiment_rows(16))
    method = METHODS.get(name)()
    with backbone.use(method):  # from its start, which need not be the bare backbone
        before = backbone.loss(train).mean()
    tuned = run(backbone, train, method, steps=12, learning_rate=RATES.get(name, 1e-2))
    with backbone.use(method, tuned.tensors):
        after = backbone.loss(train).mean()
    assert after < 0.95 * before


@pytest.mark.parametrize("arch", ["roberta", "deberta-v2", "bart", "llama", "qwen2"])
def test_every_architecture_is_tuned_from_its_scored_state(arch):
    backbone = tiny.tiny_backbone(arch)
    train = backbone.encode(tiny.sentiment_rows(8))
    backbone.loss(train)  # what a model caches while scoring must not stop it from training
    tuned = run(backbone, train, steps=2, dev=train)
    assert [row["step"] for row in tuned.history] == [0, 2]
    assert np.isfinite([row["loss"] for row in tuned.history]).all()


def test_same_seed_gives_the_same_tensors_and_another_seed_others(bert, rows):
    first, second, other = (run(bert, rows[0], seed=seed).tensors for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_drawn_by_the_seed(bert, rows):
    method = LoRA(rank=2, dropout=0.3)
    first, second, plain = run(bert, rows[0], method), run(bert, rows[0], method), run(bert, rows[0])
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert any(not torch.equal(first.tensors[name], plain.tensors[name]) for name in first.tensors)


def test_the_step_with_the_lowest_dev_loss_is_kept(bert, rows):
    tuned = run(bert, rows[0], dev=rows[1], steps=9, eval_every=2)
    assert [row["step"] for row in tuned.history] == [0, 2, 4, 6, 8, 9]
    lowest = min(tuned.history, key=lambda row: row["calibrated"])
    assert tuned.best_step == lowest["step"]
    with bert.use(LoRA(rank=2), tuned.tensors):
        assert measure(bert, rows[1]).loss == pytest.approx(lowest["loss"], abs=1e-6)


def test_the_calibrated_loss_decides_where_the_plain_one_says_otherwise(bert, rows, monkeypatch):
    told = iter([(3.0, 1.0), (1.0, 0.9), (2.0, 0.5), (2.5, 0.7), (4.0, 0.8)])

    def measured(backbone, dev):
        loss, calibrated = next(told)
        return SimpleNamespace(metrics=lambda: {"loss": loss, "accuracy": 0.5}, calibrated_loss=calibrated)

    monkeypatch.setattr(trainer, "measure", measured)
    tuned = run(bert, rows[0], dev=rows[1], steps=8, eval_every=2)
    assert [row["loss"] for row in tuned.history] == [3.0, 1.0, 2.0, 2.5, 4.0]
    assert tuned.best_step == 4


def test_the_start_is_kept_where_no_step_is_better(bert, against):
    tuned = run(bert, against[0], dev=against[1], steps=12, eval_every=3)
    start = LoRA(rank=2).draw(bert.model, 0)
    assert tuned.best_step == 0
    assert all(torch.equal(tuned.tensors[name], start[name]) for name in start)


def test_keep_last_keeps_the_last_step(bert, against):
    last = run(bert, against[0], dev=against[1], keep="last", eval_every=3)
    without_dev = run(bert, against[0])
    assert last.best_step == 0  # what dev says is still told
    assert all(torch.equal(last.tensors[name], without_dev.tensors[name]) for name in last.tensors)


def test_measuring_on_the_way_changes_nothing(bert, rows):
    often = run(bert, rows[0], LoRA(rank=2, dropout=0.3), dev=rows[1], eval_every=1, keep="last")
    never = run(bert, rows[0], LoRA(rank=2, dropout=0.3))
    assert all(torch.equal(often.tensors[name], never.tensors[name]) for name in never.tensors)


def test_patience_stops_after_measurements_without_a_better_loss(bert, against):
    tuned = run(bert, against[0], dev=against[1], steps=40, eval_every=2, patience=3)
    assert [row["step"] for row in tuned.history] == [0, 2, 4, 6]
    assert tuned.steps == 6


def test_global_random_state_goes_on_as_if_nothing_had_happened(bert, rows):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    def seeded():
        random.seed(5), np.random.seed(5), torch.manual_seed(5)

    seeded()
    expected = draw()
    seeded()
    run(bert, rows[0], steps=2, dev=rows[1])
    assert draw() == expected


def test_the_backbone_is_left_as_it_was(bert, rows):
    kept = bert.attach(LoRA(rank=3), seed=7)
    bert.train()
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    trainable = {name for name, parameter in bert.named_parameters() if parameter.requires_grad}
    try:
        run(bert, rows[0], steps=2, dev=rows[1])
        assert bert.delta is kept
        assert bert.training
        assert kept.training
        assert all(torch.equal(kept.state_dict()[name], before[name]) for name in before)
        assert trainable == {name for name, parameter in bert.named_parameters() if parameter.requires_grad}
    finally:
        bert.detach()
        bert.eval()


def test_an_exception_inside_leaves_the_backbone_as_it_was(bert, rows, monkeypatch):
    kept = bert.attach(LoRA(rank=3), seed=7)
    state = torch.get_rng_state()

    def fail(encoded, train=False):
        raise RuntimeError("inside")

    monkeypatch.setattr(bert, "collate", fail)
    try:
        with pytest.raises(RuntimeError, match="inside"):
            run(bert, rows[0])
        assert bert.delta is kept
        assert not bert.training
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        bert.detach()


def test_nothing_is_left_of_a_tune_without_a_folder(bert, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    run(bert, rows[0], steps=2, dev=rows[1])
    assert list(tmp_path.iterdir()) == []


def test_no_training_examples_is_a_data_error(bert):
    with pytest.raises(DataError, match="no training examples"):
        run(bert, [])


@pytest.mark.parametrize("label", [-1, 2])
@pytest.mark.parametrize("split", ["training", "dev"])
def test_a_row_without_a_label_is_a_data_error(bert, rows, label, split):
    odd = [*rows[0], type(rows[0][0])(rows[0][0].input, rows[0][0].choices, label)]
    with pytest.raises(DataError, match=f"a {split} example has no label"):
        run(bert, odd if split == "training" else rows[0], dev=odd if split == "dev" else None)


def test_a_start_that_does_not_fit_is_a_delta_error(bert, rows):
    with pytest.raises(DeltaError):
        tune(bert, LoRA(rank=2), rows[0], tensors=LoRA(rank=3).draw(bert.model, 0), settings=TuneSettings(steps=1))
    assert bert.delta is None


def test_a_tune_that_diverges_leaves_other_files_of_its_folder(bert, rows, tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years of work")
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(DivergedError):
            run(bert, rows[0], learning_rate=1e38, steps=4, folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_tune_that_diverges_is_a_config_error(bert, rows):
    with pytest.raises(ConfigError, match="diverged"):
        run(bert, rows[0], learning_rate=1e38, steps=4)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_caller_may_have_turned_gradients_off(bert, rows, off):
    with off():
        tuned = run(bert, rows[0], dev=rows[1], steps=2)
        assert not torch.is_grad_enabled()
    again = run(bert, rows[0], dev=rows[1], steps=2)
    assert tuned.history == again.history
    assert all(torch.equal(tuned.tensors[name], tensor) for name, tensor in again.tensors.items())


def test_a_backbone_is_not_taken_to_another_device(rows):
    backbone = tiny.tiny_backbone("bert")
    start = LoRA(rank=2).draw(backbone.model, 0)
    backbone.model.to("meta")
    with pytest.raises(BackboneError, match="a backbone on meta cannot be tuned there"):
        tune(backbone, LoRA(rank=2), rows[0], tensors=start, settings=TuneSettings(steps=1))
    assert backbone.device.type == "meta"
    _check_device(torch.device("cuda:0"), torch.device("cuda:0"))
    _check_device(torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(BackboneError, match="cuda:1 cannot be tuned") as caught:
        _check_device(torch.device("cuda:1"), torch.device("cuda:0"))
    assert "CUDA_VISIBLE_DEVICES=1" in caught.value.hint


def test_an_unknown_keep_is_refused(bert, rows):
    with pytest.raises(ConfigError, match="keep must be"):
        run(bert, rows[0], keep="first")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"eval_every": 0},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
        {"weight_decay": float("inf")},
    ],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TuneSettings(**wrong)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(ConfigError, match="below 2"):
        TuneSettings(seed=seed)
