"""The fingerprint is of weights and vocabulary, wherever they come from."""

from __future__ import annotations

import json
import os

import pytest
import tiny
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel, GPT2Model

from transfer.backbones import fingerprint, fingerprints, load_backbone, wrap_model
from transfer.paths import cache_folder


@pytest.fixture
def model():
    return tiny.tiny_model("bert")


def of(model, tokenizer=None):
    return fingerprint(model, tokenizer or tiny.tokenizer_for("bert"))


def save(folder, model):
    model.save_pretrained(folder)
    tiny.tokenizer_for("bert").save_pretrained(folder)
    return folder


def test_64_hex_digits(model):
    assert len(of(model)) == 64
    assert int(of(model), 16) > 0


@pytest.mark.parametrize("cls", [BertForSequenceClassification, BertForMaskedLM])
def test_a_task_class_has_the_fingerprint_of_its_base_model(tmp_path, model, cls):
    other = cls(model.config)
    other.bert.load_state_dict(model.state_dict(), strict=False)
    assert of(other) == of(model)
    save(tmp_path, other)
    assert load_backbone(tmp_path, kind="encoder").fingerprint == of(model)


def test_a_pooler_does_not_count(model):
    without = BertModel(model.config, add_pooling_layer=False)
    without.load_state_dict(model.state_dict(), strict=False)
    assert of(without) == of(model)


def test_a_causal_model_and_its_base_agree():
    model = tiny.tiny_model("gpt2")
    base = GPT2Model(model.config)
    base.load_state_dict(model.transformer.state_dict())
    tokenizer = tiny.tokenizer_for("gpt2")
    assert fingerprint(base, tokenizer) == fingerprint(model, tokenizer)


def test_one_changed_weight_changes_it(model):
    before = of(model)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.bias[3] += 1e-6
    assert of(model) != before


def test_a_changed_vocabulary_changes_it(model):
    before = of(model)
    tokenizer = tiny.tokenizer_for("bert")
    more = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, cls_token="<s>", sep_token="</s>", pad_token="<pad>")
    assert of(model, more) == before
    more.add_tokens(["harbour"])
    assert of(model, more) != before


def test_buffers_and_names_do_not_count(model):
    before = of(model)
    model.register_buffer("position_ids_of_another_version", torch.arange(5))
    model.config.name_or_path = "somewhere/else"
    assert of(model) == before
    assert wrap_model(model, tiny.tokenizer_for("bert"), name="x").fingerprint == before


def test_half_precision_keeps_it_where_the_values_fit(tmp_path, model):
    model.half().float()
    before = of(model)
    save(tmp_path, model.half())
    assert load_backbone(tmp_path).fingerprint == before


def test_it_is_computed_once_per_folder_state(tmp_path, model, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return fingerprint(*args)

    monkeypatch.setattr(fingerprints, "fingerprint", counted)
    save(tmp_path, model)
    first = load_backbone(tmp_path).fingerprint
    assert load_backbone(tmp_path).fingerprint == first
    assert len(calls) == 1
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5, 5] += 1
    save(tmp_path, model)
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert load_backbone(tmp_path).fingerprint != first
    assert len(calls) == 2


@pytest.mark.parametrize("content", ["{broken", "[]"])
def test_a_broken_cache_costs_time_only(tmp_path, model, content):
    save(tmp_path, model)
    cache_folder().mkdir(parents=True, exist_ok=True)
    store = cache_folder() / "fingerprints.json"
    store.write_text(content)
    assert load_backbone(tmp_path).fingerprint == of(model)
    assert of(model) in json.loads(store.read_text()).values()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, model, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(fingerprints, "cache_folder", lambda: tmp_path / "file" / "cache")
    save(tmp_path / "bert", model)
    assert load_backbone(tmp_path / "bert").fingerprint == of(model)
