"""OpenDelta's checkpoints, against what the real OpenDelta wrote (`elsewhere/with_opendelta.py` says how)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from elsewhere.models import build, outputs
from safetensors.torch import load_file, save_file
from zoo_toys import settings_of, tensors_of

from transfer.backbones import wrap_model
from transfer.deltas import Delta
from transfer.importing import import_checkpoint
from zoo import FormatError, TensorError
from zoo.formats import detect, opendelta

WRITTEN = Path(__file__).parent / "elsewhere" / "opendelta"
READ = (
    "bert-lora",
    "bert-adapter",
    "bert-prefix",
    "bert-classifier-lora",
    "roberta-prefix",
    "gpt2-adapter",
    "gpt2-prefix",
    "t5-lora",
)


def backbone_of(case):
    arch = "bert-classifier" if case.startswith("bert-classifier") else case.partition("-")[0]
    model = build(arch)
    model = getattr(model, "bert", model)
    return wrap_model(model, tiny.tokenizer_for(arch), name=f"tiny-{arch}")


@pytest.mark.parametrize("case", READ)
def test_ours_computes_what_opendelta_computed(case):
    backbone, expected = backbone_of(case), load_file(WRITTEN / case / "expected.safetensors")
    torch.testing.assert_close(outputs(backbone.model), expected["bare"], rtol=1e-4, atol=1e-5)
    found = import_checkpoint(WRITTEN / case, backbone, allow_pickle=True)
    with backbone.use(Delta.from_module(found.module)):
        ours = outputs(backbone.model)
    torch.testing.assert_close(ours, expected["outputs"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, expected["bare"], atol=1e-2)
    if case == "bert-classifier-lora":
        assert any("bert. was taken off" in note for note in found.notes)
        assert any("classifier" in note for note in found.notes if note.startswith("left out"))


@pytest.mark.parametrize("case", ["bert-lora", "bert-adapter", "gpt2-prefix"])
def test_what_is_read_can_be_written_and_read_again(case, tmp_path):
    backbone = backbone_of(case)
    module = import_checkpoint(WRITTEN / case, backbone, allow_pickle=True).module
    card = module.card
    opendelta.write(tmp_path, card.method, card.settings, module.tensors(), "tiny")
    again = import_checkpoint(tmp_path, backbone, allow_pickle=True).module
    assert again.id.rpartition("-")[2] == module.id.rpartition("-")[2]  # a hash of the tensors
    assert {**again.card.settings, "where": None} == {**card.settings, "where": None}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["delta_type"] == card.method


def test_a_pickle_must_be_asked_for_and_a_safetensors_file_need_not(tmp_path):
    with pytest.raises(FormatError, match=r"(?s)a pickle.*torch\.load.*model\.safetensors.*--allow-pickle"):
        opendelta.read(WRITTEN / "bert-lora")
    shutil.copy(WRITTEN / "bert-lora" / "config.json", tmp_path)
    save_file(torch.load(WRITTEN / "bert-lora" / "pytorch_model.bin"), tmp_path / "model.safetensors")
    found = opendelta.read(tmp_path)
    assert (found.method, found.settings["rank"], found.settings["alpha"]) == ("lora", 2, 6)
    assert len(found.tensors) == 8


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("t5-prefix", "relative positions"),
        ("bert-low-rank", r"(?s)low_rank_adapter.*products.*transfer finetune"),
        ("bert-parallel", r"(?s)parallel_adapter.*which output"),
    ],
)
def test_what_has_no_home_is_refused_by_name(case, said):
    with pytest.raises(FormatError, match=said):
        import_checkpoint(WRITTEN / case, backbone_of(case), allow_pickle=True)


def test_another_backbone_is_refused():
    with pytest.raises(FormatError, match="does not go on this backbone"):
        import_checkpoint(WRITTEN / "t5-lora", backbone_of("bert-lora"), allow_pickle=True)
    with pytest.raises(FormatError, match="does not go on this backbone"):
        import_checkpoint(WRITTEN / "bert-prefix", backbone_of("gpt2-prefix"), allow_pickle=True)


def test_a_model_s_own_config_is_no_delta(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FormatError, match="no checkpoint in"):
        detect(tmp_path)
    assert detect(WRITTEN / "bert-lora") is opendelta


PLACE = "encoder.layer.0.attention.self.query"
A, B = torch.ones(2, 8), torch.ones(8, 2)
WHOLE = {f"{PLACE}.lora.lora_A": A, f"{PLACE}.lora.lora_B": B}


@pytest.mark.parametrize(
    ("config", "tensors", "said"),
    [
        ({"delta_type": "magic"}, WHOLE, "type 'magic'"),
        ({"lora_r": 0}, WHOLE, "not a count"),
        ({"lora_r": True}, WHOLE, "not a count"),
        ({"lora_alpha": "x"}, WHOLE, "not a number"),
        ({}, {f"{PLACE}.lora.lora_A": A}, "no lora_B"),
        ({}, {f"{PLACE}.lora.lora_A": A, f"{PLACE}.lora.lora_B": A}, "no LoRA of a linear layer"),
        ({}, {**WHOLE, f"{PLACE}.lora_1.lora_A": A}, "no part of the lora"),
        ({}, {**WHOLE, "encoder.layer.0.output.LayerNorm.weight": A[0]}, r"(?s)no part.*LayerNorm.*unfrozen_modules"),
        ({}, {"classifier.weight": A}, "no tensors of a lora"),
        ({}, {"../../etc/passwd.lora.lora_A": A, "../../etc/passwd.lora.lora_B": B}, "can be no module"),
    ],
)
def test_broken_and_hostile_folders_are_typed_errors(config, tensors, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"delta_type": "lora", "lora_r": 2, "lora_alpha": 4, **config}))
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=said):
        opendelta.read(tmp_path)


def test_an_activation_that_we_have_not_is_refused_by_name(tmp_path):
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(WRITTEN / "bert-adapter" / name, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "non_linearity": "leakyrelu"}))
    with pytest.raises(FormatError, match=r"(?s)leakyrelu.*gelu_new"):
        opendelta.read(tmp_path, allow_pickle=True)


@pytest.mark.parametrize(
    ("method", "changed", "said"),
    [
        ("lora", {"places": ["transformer.h.0.attn.c_attn"]}, "convolutions"),
        ("lora", {"ranks": {"a": 1}}, "ranks of their own"),
        ("adapter", {"activation": "sine"}, "no activation 'sine'"),
        ("prefix", {"position_shift": True}, "positions"),
        ("prefix", {"position_shift": False, "places": ["encoder.block.0.layer.0.SelfAttention"]}, "T5"),
        ("bitfit", {}, "holds lora, adapter, prefix"),
    ],
)
def test_what_opendelta_cannot_hold_is_a_typed_error(method, changed, said, tmp_path):
    settings = {**settings_of(method), **changed}
    assert not opendelta.fits(method, settings, {})
    with pytest.raises(FormatError, match=said):
        opendelta.write(tmp_path, method, settings, tensors_of(method), "tiny")
    assert not list(tmp_path.iterdir())


def test_not_finite_tensors_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"delta_type": "lora", "lora_r": 2, "lora_alpha": 4}))
    save_file({name: value / 0 for name, value in WHOLE.items()}, tmp_path / "model.safetensors")
    with pytest.raises(TensorError, match="infinite"):
        dict(opendelta.read(tmp_path).tensors)
