"""From a folder, an id or an object to a delta; what is none is told with what to do."""

from __future__ import annotations

import pytest
import small
import tiny
import torch

from transfer import evaluate, initialize, predict
from transfer.deltas import LoRA
from transfer.deltas.delta import Delta
from transfer.errors import ConfigError, DeltaError, UnknownNameError
from transfer.resolving import Start, as_delta, load_start, trained_fields, trained_length
from zoo import CardError, FingerprintError, Zoo


@pytest.fixture(scope="module")
def initialized(small_zoo):
    backbone, zoo = small_zoo()
    return initialize(small.toy_target(), zoo, backbone, guard=False)


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_what_holds_a_delta(small_zoo, initialized):
    backbone, zoo = small_zoo()
    module = next(iter(zoo))
    delta = as_delta(module, backbone)
    assert equal(delta.tensors, module.tensors(torch.float32))
    assert as_delta(delta, backbone) is delta
    assert as_delta(initialized, backbone) is initialized.delta
    assert as_delta(load_start(module.id, zoo), backbone).tensors.keys() == delta.tensors.keys()
    assert as_delta(None, backbone) is None


@pytest.mark.parametrize("thing", ["boolq-lora", 3, LoRA(), {"a": torch.zeros(1)}])
def test_what_holds_none(thing, small_zoo):
    with pytest.raises(DeltaError, match=f"a {type(thing).__name__} holds no delta"):
        as_delta(thing, small_zoo()[0])


def test_what_was_made_for_another_backbone_is_refused(small_zoo, initialized):
    _, zoo = small_zoo()
    module = next(iter(zoo))
    foreign = tiny.tiny_backbone("bert", seed=1)
    for thing in (module, initialized, load_start(module.id, zoo)):
        with pytest.raises(FingerprintError, match=r"backbone (than )?'tiny-bert'"):
            as_delta(thing, foreign)
        with pytest.raises(FingerprintError):
            evaluate(small.toy_target(), foreign, thing)
        with pytest.raises(FingerprintError):
            predict([], foreign, thing)


def test_the_folder_of_an_initialization(small_zoo, initialized, tmp_path):
    backbone, zoo = small_zoo()
    folder = initialized.save(tmp_path / "begin")
    found = load_start(str(folder), zoo)
    assert equal(found.delta.tensors, initialized.delta.tensors)
    assert (found.name, found.fingerprint, found.backbone) == (str(folder), backbone.fingerprint, backbone.name)
    assert found.choices == ["negative", "positive"]
    assert found.start == next(iter(zoo)).card.start


def test_the_folder_of_a_module(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    module = next(iter(zoo))
    folder = zoo.export(module.id, tmp_path / "out")
    found = load_start(str(folder), Zoo(tmp_path / "none"))
    assert equal(found.delta.tensors, Delta.from_module(module).tensors)
    assert found.fingerprint == backbone.fingerprint


def test_an_id_in_the_zoo(small_zoo):
    _, zoo = small_zoo()
    module = next(iter(zoo))
    found = load_start(module.id, zoo)
    assert equal(found.delta.tensors, Delta.from_module(module).tensors)
    assert (found.name, found.start) == (module.id, module.card.start)


@pytest.mark.parametrize("name", ["films-lora-00000000", "no/such/folder", "../films", "", "FILMS", "x" * 300])
def test_neither_a_folder_nor_an_id(name, small_zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"(?s)no folder and no module.*recipe\.json or card\.json.*zoo ls"):
        load_start(name, small_zoo()[1])


def test_a_plain_peft_folder_is_added_first(small_zoo, tmp_path):
    folder = tmp_path / "my films"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnknownNameError, match=r"transfer zoo add '.*my films' --backbone"):
        load_start(str(folder), small_zoo()[1])


def test_a_damaged_folder_is_not_passed_over(small_zoo, tmp_path):
    for name, error in (("recipe.json", ConfigError), ("card.json", CardError)):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("{")
        with pytest.raises(error):
            load_start(str(folder), small_zoo()[1])


def test_another_backbone_is_refused_unless_forced(small_zoo):
    backbone, zoo = small_zoo()
    found = load_start(next(iter(zoo)).id, zoo)
    found.check_fits(backbone.fingerprint, backbone.name)
    with pytest.raises(
        FingerprintError, match=rf"(?s)made for another backbone than 'other'.*--backbone FOLDER.*{backbone.name}"
    ):
        found.check_fits("0" * 64, "other")
    found.check_fits("0" * 64, "other", force=True)


def test_inputs_are_cut_as_in_training_whatever_else_is_in_the_file():
    def start(fields, length):
        return Start(Delta(LoRA(), {}), "x", "0" * 64, "toy", None, fields, length)

    one, other, silent = start(("text",), 32), start(("text",), 64), start((), None)
    assert trained_length([one, other, None]) == 64
    assert trained_length([silent, None]) == 128
    assert trained_fields([one, other], ["text: warm and funny Note: seen twice"]) == ("text",)
    assert trained_fields([one], ["text: a", "no mark"]) == ()
    assert trained_fields([one, silent], ["text: a"]) == ()
