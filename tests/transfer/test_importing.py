"""Checkpoints of PEFT and exported folders as modules: what is read, what is told, what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import small
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from transfer.backbones import wrap_model
from transfer.deltas import METHODS
from transfer.deltas.delta import Delta
from transfer.errors import ConfigError, DeltaError
from transfer.importing import import_checkpoint, task_name
from transfer.initializing import initialize
from transfer.similarity.signatures import gradient_sketch
from zoo import FingerprintError, FormatError, Module, Zoo, ZooError

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def bert(small_zoo):
    return small_zoo()[0]


def saved(config, folder, model):
    """Write what PEFT trained (random tensors here) and give its hidden states."""
    torch.manual_seed(0)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "prompt_encoder" in name or "lora_" in name:
                value.copy_(torch.randn(value.shape) * 0.3)
        theirs.save_pretrained(folder)
        return theirs


def lora(**settings):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **settings})


def states(model, backbone):
    batch = backbone.tokenizer([row["input"] for row in tiny.sentiment_rows(4, 9)], return_tensors="pt", padding=True)
    with torch.no_grad():
        return model(**batch).last_hidden_state[batch["attention_mask"].bool()]


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_peft_folder_becomes_a_module_with_equal_outputs(method, bert, tmp_path):
    config = (
        lora() if method == "lora" else peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    )
    folder = tmp_path / "Film Reviews"
    theirs = saved(config, folder, bert.model)
    found = import_checkpoint(folder, bert, category="sentiment", license="MIT")
    module = Zoo(tmp_path / "zoo").add(found.module)
    card = module.card
    assert (card.task, card.method, card.category, card.license) == ("film-reviews", method, "sentiment", "MIT")
    assert (card.fingerprint, card.start) == (bert.fingerprint, None)
    with bert.use(Delta.from_module(module)):
        ours = states(bert.model, bert)
    torch.testing.assert_close(ours, states(theirs, bert), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, states(bert.model, bert), atol=1e-2)


@pytest.mark.parametrize(
    ("said", "told"),
    [("google/bert_uncased_L-2", "google/bert_uncased_L-2"), ("/home/ann/my-bert/", "my-bert"), ("", "nothing")],
)
def test_the_card_tells_what_the_checkpoint_said_but_no_path(said, told, bert, tmp_path):
    saved(lora(), tmp_path / "films", bert.model)
    path = tmp_path / "films" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": said}))
    card = import_checkpoint(tmp_path / "films", bert).module.card
    assert card.provenance["said_backbone"] == told
    assert str(tmp_path) not in json.dumps(card.as_dict())


def test_data_gives_the_task_s_part_of_the_signature(bert, tmp_path):
    saved(lora(), tmp_path / "films", bert.model)
    bare = import_checkpoint(tmp_path / "films", bert).module.signature
    assert bare.centroid is None
    assert bare.gradient_sketch is None
    target = small.toy_target()
    full = import_checkpoint(tmp_path / "films", bert, data=target).module.signature
    assert full.centroid.shape == (32,)
    assert len(full.examples) == 24
    method = METHODS.get("lora").from_settings(import_checkpoint(tmp_path / "films", bert).module.card.settings)
    expected = gradient_sketch(bert, method, None, bert.encode(target.train, target.fields))
    # Another order of the same examples adds up to the same, up to rounding.
    np.testing.assert_allclose(full.gradient_sketch, expected.numpy(), rtol=1e-4, atol=1e-6)
    assert np.abs(full.gradient_sketch).max() > 1e-3
    np.testing.assert_array_equal(full.weight_sketch, bare.weight_sketch)


def test_of_a_backbone_in_a_folder_the_card_has_the_folder_s_name(tmp_path):
    backbone = wrap_model(tiny.tiny_model("bert"), tiny.tokenizer_for("bert"), name="/home/ann/models/my-bert")
    saved(lora(), tmp_path / "films", backbone.model)
    card = import_checkpoint(tmp_path / "films", backbone).module.card
    assert card.backbone == "my-bert"
    assert "/home/ann" not in json.dumps(card.as_dict())


def test_an_exported_folder_comes_back_whole(small_zoo, tmp_path):
    _, zoo = small_zoo()
    first = next(iter(zoo))
    zoo.export(first.id, tmp_path / "out")
    found = import_checkpoint(tmp_path / "out")  # it says itself which backbone it is for
    assert found.notes == ()
    stored = Zoo(tmp_path / "mine").add(found.module)
    assert stored.id == first.id
    assert stored.card.as_dict() == first.card.as_dict()
    assert stored.signature == first.signature
    assert all(torch.equal(value, first.start()[name]) for name, value in stored.start().items())


def test_an_exported_folder_says_itself_what_it_is(small_zoo, tmp_path):
    _, zoo = small_zoo()
    zoo.export(next(iter(zoo)).id, tmp_path / "out")
    for told, name in (({"task": "other"}, "--task"), ({"license": "CC0"}, "--license")):
        with pytest.raises(ConfigError, match="a card of its own") as error:
            import_checkpoint(tmp_path / "out", **told)
        assert name in str(error.value)


def test_an_exported_module_brings_its_own_start(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    first, own = next(iter(zoo)), Zoo(tmp_path / "own")
    method = METHODS.get("lora")()
    other = method.draw(backbone.model, 8)
    named = own.add_start("lora", method.start_settings(backbone.model), backbone.fingerprint, other)
    assert named == first.card.start
    zoo.export(first.id, tmp_path / "out")
    stored = own.add(import_checkpoint(tmp_path / "out").module)
    assert all(torch.equal(value, first.start()[name]) for name, value in stored.start().items())
    assert stored.card.start != named


def test_heads_are_dropped_and_fronts_taken_off_and_both_are_told(bert, tmp_path):
    config = copy.deepcopy(bert.model.config)
    config.num_labels = 2
    model = BertForSequenceClassification(config)
    model.bert.load_state_dict(bert.model.state_dict(), strict=False)
    theirs = saved(lora(task_type="SEQ_CLS"), tmp_path / "films", model)
    found = import_checkpoint(tmp_path / "films", bert)
    assert any("bert." in note for note in found.notes)
    dropped = [note for note in found.notes if note.startswith("left out")]
    assert dropped
    assert all("classifier" in note for note in dropped)
    assert all("classifier" not in name for name in found.module.tensors())
    with bert.use(Delta.from_module(found.module)):
        ours = states(bert.model, bert)
    torch.testing.assert_close(ours, states(theirs.base_model.model.bert, bert), rtol=1e-4, atol=1e-5)


def test_shapes_of_another_backbone_are_refused(bert, tmp_path):
    saved(lora(), tmp_path / "films", bert.model)
    path = tmp_path / "films" / "adapter_model.safetensors"
    wider = {
        name: torch.cat([value, value], dim=1) if "lora_A" in name else value for name, value in load_file(path).items()
    }
    save_file(wider, path)
    with pytest.raises(DeltaError, match=r"(?s)does not fit the backbone.*\(4, 64\).*\(4, 32\).*--backbone"):
        import_checkpoint(tmp_path / "films", bert)


def test_places_that_are_not_there_are_refused(small_zoo, tiny_model, tmp_path):
    saved(lora(target_modules=["c_attn"]), tmp_path / "films", tiny_model("gpt2"))
    with pytest.raises(FormatError, match="does not go on this backbone"):
        import_checkpoint(tmp_path / "films", small_zoo()[0])


def test_what_our_method_cannot_do_is_refused_by_name(bert, tmp_path):
    saved(lora(use_dora=True), tmp_path / "films", bert.model)
    with pytest.raises(FormatError, match=r"(?i)dora"):
        import_checkpoint(tmp_path / "films", bert)


def test_a_checkpoint_needs_its_backbone_named(bert, tmp_path):
    folder = tmp_path / "my films"
    saved(lora(), folder, bert.model)
    with pytest.raises(ConfigError, match=r"(?s)which weights.*zoo add '.*my films' --backbone"):
        import_checkpoint(folder)


def test_a_folder_without_a_checkpoint_is_refused(bert, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError):
        import_checkpoint(tmp_path / "empty", bert)


def test_an_initialization_is_no_module_of_a_task(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    folder = initialize(small.toy_target(), zoo, backbone, guard=False).save(tmp_path / "toy-lora")
    with pytest.raises(
        ConfigError, match=r"(?s)no module that was trained.*initialization for toy.*finetune --start .*toy-lora"
    ):
        import_checkpoint(folder, backbone)


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        ("sst2", "sst2"),
        ("My LoRA (SST-2)", "my-lora-sst-2"),
        ("checkpoint_500.v2", "checkpoint_500.v2"),
        ("..hidden", "hidden"),
        ("Überblick 7", "berblick-7"),
    ],
)
def test_a_task_is_named_after_the_folder(folder, task, small_zoo):
    assert task_name(folder) == task
    card = next(iter(small_zoo()[1])).card
    assert Module.new(card.changed(task=task), next(iter(small_zoo()[1])).tensors()).card.task == task


def test_a_folder_whose_name_says_nothing(bert):
    with pytest.raises(ConfigError, match=r"(?s)no task name.*--task"):
        task_name("(...)")


def exported(zoo, folder, **settings):
    """A module of a zoo in a folder by itself, its card changed as a stranger may."""
    module = next(iter(zoo))
    zoo.export(module.id, folder)
    card = json.loads((folder / "card.json").read_text())
    card["settings"] |= settings
    (folder / "card.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    ("setting", "value"),
    [("alpha", None), ("alpha", "x"), ("dropout", None), ("ranks", [1]), ("alphas", {"a": 1e400}), ("rank", "8")],
)
def test_an_exported_folder_with_settings_that_cannot_be_used_is_refused(setting, value, small_zoo, tmp_path):
    _, zoo = small_zoo()
    with pytest.raises((DeltaError, ZooError)):
        import_checkpoint(exported(zoo, tmp_path / "odd", **{setting: value}))


def test_an_exported_folder_is_held_against_the_backbone_that_is_named(small_zoo, tmp_path):
    _, zoo = small_zoo()
    folder = exported(zoo, tmp_path / "one")
    with pytest.raises(FingerprintError):
        import_checkpoint(folder, tiny.tiny_backbone("bert", seed=1))


def test_a_config_is_not_read_where_it_is_too_large_for_one(bert, tmp_path):
    saved(lora(), tmp_path, bert.model)
    with (tmp_path / "adapter_config.json").open("r+b") as file:
        file.truncate(1 << 33)  # a hole: nothing on the disk
    with pytest.raises(FormatError, match="more than 4,194,304 bytes"):
        import_checkpoint(tmp_path, bert)
