"""Loading from a folder, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    GPT2Model,
    MPNetConfig,
    MPNetModel,
    T5EncoderModel,
)

from transfer.backbones import load_backbone, loading, wrap_model
from transfer.backbones.positions import n_positions
from transfer.errors import BackboneError, ConfigError, UnknownNameError

ROWS = tiny.sentiment_rows(4)
KINDS = {**dict.fromkeys(tiny.ENCODERS, "encoder"), **dict.fromkeys(tiny.SEQ2SEQ, "seq2seq")}


def save(folder, model, arch="bert"):
    model.save_pretrained(folder)
    tiny.tokenizer_for(arch).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def bert_folder(tmp_path):
    return save(tmp_path / "bert", tiny.tiny_model("bert"))


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_a_saved_model_is_loaded_as_what_it_is(tmp_path, arch):
    original = tiny.tiny_backbone(arch)
    loaded = load_backbone(save(tmp_path, original.model, arch), precision="fp32", max_length=64)
    assert loaded.kind == KINDS.get(arch, "causal")
    assert loaded.fingerprint == original.fingerprint
    assert loaded.name == str(tmp_path)
    assert torch.equal(loaded.choice_logits(ROWS), original.choice_logits(ROWS))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_a_path_can_be_given_as_a_path(tmp_path):
    save(tmp_path, tiny.tiny_model("bert"))
    assert load_backbone(tmp_path).kind == "encoder"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BackboneError, match="no backbone folder") as caught:
        load_backbone(tmp_path / "nowhere")
    assert "embedded" in caught.value.hint


def test_an_unknown_hub_id_is_a_backbone_error():
    with pytest.raises(BackboneError, match="cannot load backbone 'no-one/nothing'"):
        load_backbone("no-one/nothing")


def test_a_hub_out_of_reach_is_noticed_within_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    begun = time.perf_counter()
    with pytest.raises(BackboneError, match="cannot load backbone 't5-small'") as caught:
        load_backbone("t5-small")
    assert time.perf_counter() - begun < 5
    assert "http://127.0.0.1:9 is out of reach" in caught.value.found
    assert "--backbone FOLDER" in caught.value.hint


def test_offline_the_hub_is_not_asked(monkeypatch):
    def ask():
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("transfer.tasks.reach.why_unreachable", ask)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError, match="no copy in the Hub's cache") as caught:
        load_backbone("no-one/nothing")
    assert "HF_HUB_OFFLINE" in caught.value.hint


@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_copy_serves_where_the_hub_cannot(offline, bert_folder, monkeypatch):
    monkeypatch.setattr("transfer.tasks.reach.offline", lambda: offline)
    monkeypatch.setattr("transfer.tasks.reach.why_unreachable", lambda: "no answer within 4 s")
    monkeypatch.setattr(loading, "_snapshot", lambda name: Path(bert_folder) if name == "some-one/bert" else None)
    backbone = load_backbone("some-one/bert")
    assert backbone.name == backbone.base_model == "some-one/bert"
    assert backbone.fingerprint == load_backbone(bert_folder).fingerprint


def test_an_empty_folder_is_a_backbone_error(tmp_path):
    with pytest.raises(BackboneError, match="cannot load backbone"):
        load_backbone(tmp_path)


def test_weights_in_a_pickle_are_refused(bert_folder, tmp_path):
    weights = tmp_path / "bert" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(BackboneError, match="cannot load backbone") as caught:
        load_backbone(bert_folder)
    assert "safetensors" in str(caught.value)


def test_broken_weights_are_a_backbone_error(bert_folder, tmp_path):
    weights = tmp_path / "bert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BackboneError, match="cannot load backbone"):
        load_backbone(bert_folder)


def test_weights_of_another_size_are_a_backbone_error(bert_folder, tmp_path):
    config = tmp_path / "bert" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 48}))
    with pytest.raises(BackboneError, match="cannot load backbone"):
        load_backbone(bert_folder)


def test_missing_weights_are_not_drawn_at_random(bert_folder, tmp_path):
    weights = tmp_path / "bert" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="not those of a whole encoder") as caught:
        load_backbone(bert_folder)
    assert "encoder.layer.1.output.dense.weight" in caught.value.found


def test_an_encoder_is_no_causal_model(bert_folder):
    with pytest.raises(BackboneError, match="not those of a whole causal model"):
        load_backbone(bert_folder, kind="causal")


def test_a_missing_pooler_is_not_missed(tmp_path):
    model = BertModel(tiny.tiny_model("bert").config, add_pooling_layer=False)
    assert load_backbone(save(tmp_path, model)).kind == "encoder"


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_a_missing_tokenizer_is_a_backbone_error(tmp_path, arch):
    tiny.tiny_model(arch).save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match=r"there is no tokenizer|cannot load backbone"):
        load_backbone(tmp_path)


def test_code_of_a_stranger_is_not_run(bert_folder, tmp_path):
    config = tmp_path / "bert" / "config.json"
    odd = {**json.loads(config.read_text()), "model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    config.write_text(json.dumps(odd))
    (tmp_path / "bert" / "odd.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(BackboneError, match="cannot load backbone"):
        load_backbone(bert_folder)


def test_unknown_kind_and_precision_are_refused(bert_folder):
    with pytest.raises(UnknownNameError, match="did you mean 'encoder'"):
        load_backbone(bert_folder, kind="encoders")
    with pytest.raises(ConfigError, match="no precision 'fp8'"):
        load_backbone(bert_folder, precision="fp8")


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", "xpu:99", "vulkan", "hpu"])
def test_a_device_that_is_not_there_is_refused(bert_folder, device):
    with pytest.raises(ConfigError, match=f"no device '{device}'"):
        load_backbone(bert_folder, device=device)


def test_bf16_can_be_asked_for(bert_folder):
    backbone = load_backbone(bert_folder, precision="bf16", device="cpu")
    assert backbone.precision == "bf16"
    assert next(backbone.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize(("arch", "most"), [("bert", 160), ("roberta", 160), ("bart", 160), ("gpt2", 160), ("t5", 999)])
def test_max_length_is_capped_to_the_positions(arch, most):
    backbone = wrap_model(tiny.tiny_model(arch), tiny.tokenizer_for(arch), max_length=999)
    assert backbone.max_length == most
    row = {"input": "warm and funny " * 200, "choices": ["no", "yes"], "label": 0}
    assert backbone.encode([row])[0].length >= most
    assert torch.isfinite(backbone.choice_logits([row])).all()


def test_positions_start_after_the_padding_id_where_the_table_has_one():
    model = MPNetModel(MPNetConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64))
    assert n_positions(model) == 512 - 2


@pytest.mark.parametrize("cls", [BertForSequenceClassification, BertForMaskedLM])
def test_an_encoder_is_taken_out_of_its_task_class(cls):
    model = cls(tiny.tiny_model("bert").config).eval()
    backbone = wrap_model(model, tiny.tokenizer_for("bert"), kind="encoder")
    assert backbone.model is model.bert
    assert torch.isfinite(backbone.choice_logits(ROWS)).all()


def test_a_model_without_a_head_cannot_be_causal():
    model = GPT2Model(tiny.tiny_model("gpt2").config)
    with pytest.raises(BackboneError, match="no head that gives tokens"):
        wrap_model(model, tiny.tokenizer_for("gpt2"), kind="causal")
    assert wrap_model(model, tiny.tokenizer_for("gpt2"), kind="encoder").kind == "encoder"


@pytest.mark.parametrize(
    ("arch", "kind", "why"),
    [
        ("t5", "encoder", "an encoder and a decoder"),
        ("bart", "causal", "an encoder and a decoder"),
        ("gpt2", "seq2seq", "no encoder beside a decoder"),
    ],
)
def test_a_model_is_not_forced_to_be_of_another_kind(arch, kind, why, tmp_path):
    model, tokenizer = tiny.tiny_model(arch), tiny.tokenizer_for(arch)
    with pytest.raises(BackboneError, match=f"no {kind} model") as caught:
        wrap_model(model, tokenizer, kind=kind)
    assert why in caught.value.found
    with pytest.raises(BackboneError):
        load_backbone(save(tmp_path, model, arch), kind=kind)


def test_what_reads_both_ways_is_causal_only_where_it_is_set_to_be(tmp_path):
    config, tokenizer = tiny.tiny_model("bert").config, tiny.tokenizer_for("bert")
    for cls in (BertForMaskedLM, BertLMHeadModel):
        with pytest.raises(BackboneError, match=f"is a {cls.__name__}, no causal model"):
            wrap_model(cls(config), tokenizer, kind="causal")
    folder = save(tmp_path, BertForMaskedLM(config))
    with pytest.raises(BackboneError, match="no causal model"):
        load_backbone(folder, kind="causal")
    assert load_backbone(folder).kind == "encoder"
    turned = BertConfig(**{**config.to_dict(), "is_decoder": True})
    assert torch.isfinite(wrap_model(BertLMHeadModel(turned).eval(), tokenizer).choice_logits(ROWS)).all()


def test_the_encoder_of_an_encoder_decoder_is_an_encoder():
    model = T5EncoderModel(tiny.tiny_model("t5").config).eval()
    backbone = wrap_model(model, tiny.tokenizer_for("t5"), kind="encoder")
    assert torch.isfinite(backbone.choice_logits(ROWS)).all()


def test_a_tokenizer_without_padding_gets_the_end_token(tmp_path):
    tokenizer = tiny.PreTrainedTokenizerFast(tokenizer_object=tiny.tiny_tokenizer("none")._tokenizer, eos_token="</s>")
    backbone = wrap_model(tiny.tiny_model("gpt2"), tokenizer)
    assert backbone.tokenizer.pad_token_id == tokenizer.eos_token_id
    expected = tiny.tiny_backbone("gpt2")
    torch.testing.assert_close(backbone.choice_logits(ROWS), expected.choice_logits(ROWS))


def test_verbosity_and_bars_of_transformers_are_as_before(bert_folder):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_backbone(bert_folder)
    with pytest.raises(BackboneError):
        load_backbone("no-one/nothing")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_another_file_than_the_known_one_is_not_the_embedded_backbone(tmp_path, monkeypatch):
    package = tmp_path / loading.EMBEDDED_PACKAGE
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="not installed") as caught:
        load_backbone("embedded")
    assert "pip install" in caught.value.hint
    spec = type("Spec", (), {"submodule_search_locations": [str(package)]})
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(BackboneError, match=r"has no model\.safetensors"):
        load_backbone("embedded")
    (package / "model" / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(BackboneError, match="is not the file") as caught:
        load_backbone("embedded")
    assert loading.EMBEDDED_SHA256[:16] in caught.value.found
