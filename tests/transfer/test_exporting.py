"""Merged export: a folder that transformers loads by itself, with the outputs of the backbone and its module."""

from __future__ import annotations

import pytest
import tiny
import torch
from small import toy_target
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from transfer.backbones import load_backbone
from transfer.deltas import METHODS, Adapter, BitFit, Delta, LoRA
from transfer.errors import DeltaError
from transfer.exporting import export_as, export_merged
from transfer.importing import import_checkpoint
from zoo import Card, FormatError, Module
from zoo.errors import FingerprintError, PathError

CLASSES = {"bert": AutoModel, "roberta": AutoModel, "t5": AutoModelForSeq2SeqLM, "gpt2": AutoModelForCausalLM}
TEXTS = ["text: a warm film", "question: is the harbour open"]


def module_for(backbone, method, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.3 for name, shape in method.shapes(backbone.model).items()
    }
    settings = method.settings(backbone.model)
    fields = {"backbone": backbone.name, "fingerprint": backbone.fingerprint, "license": "MIT"}
    return Module.new(Card(task="toy", method=method.method, settings=settings, **fields), tensors)


def answers(model, tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    more = {"decoder_input_ids": torch.tensor([[1, 9, 8], [1, 7, 6]])} if model.config.is_encoder_decoder else {}
    found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **more)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize(
    ("arch", "name"),
    [("bert", "lora"), ("bert", "bitfit"), ("roberta", "lora"), ("t5", "lora"), ("gpt2", "lora"), ("gpt2", "bitfit")],
)
def test_transformers_loads_what_answers_like_backbone_and_module(arch, name, tmp_path, capfd):
    backbone = tiny.tiny_backbone(arch)
    before = backbone.choice_logits(toy_target().dev)
    module = module_for(backbone, METHODS.get(name)())
    with backbone.use(Delta.from_module(module)):
        expected = answers(backbone.model, backbone.tokenizer)
        scored = backbone.choice_logits(toy_target().dev)
    capfd.readouterr()
    folder = export_merged(module, tmp_path / "model", backbone)
    assert capfd.readouterr().err == ""  # no bar for writing a file
    assert torch.equal(backbone.choice_logits(toy_target().dev), before)
    model, report = CLASSES[arch].from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert torch.allclose(answers(model.eval(), tokenizer), expected, atol=2e-5)
    merged = load_backbone(str(folder), backbone.kind, precision="fp32", max_length=backbone.max_length)
    assert merged.fingerprint != backbone.fingerprint
    assert torch.allclose(merged.choice_logits(toy_target().dev), scored, atol=1e-3)
    assert "licence of the task's data: MIT" in (folder / "README.md").read_text()


def test_biases_that_the_class_lacks_are_refused_before_anything_is_written(tmp_path):
    backbone = tiny.tiny_backbone("llama")
    module = module_for(backbone, BitFit(where="attn.q"))
    with pytest.raises(DeltaError, match=r"(?s)LlamaForCausalLM.*2 biases.*q_proj\.bias"):
        export_merged(module, tmp_path / "model", backbone)
    assert not list(tmp_path.iterdir())
    assert backbone.delta is None


def test_methods_that_are_no_change_of_weights_are_refused_by_name(tmp_path):
    backbone = tiny.tiny_backbone("bert")
    with pytest.raises(DeltaError, match="method 'adapter' cannot be merged"):
        export_merged(module_for(backbone, METHODS.get("adapter")()), tmp_path / "model", backbone)
    assert not list(tmp_path.iterdir())


def test_another_backbone_and_a_folder_in_use_are_refused(tmp_path):
    backbone, other = tiny.tiny_backbone("bert"), tiny.tiny_backbone("bert", seed=1)
    module = module_for(backbone, METHODS.get("lora")())
    with pytest.raises(FingerprintError, match="was not trained on"):
        export_merged(module, tmp_path / "model", other)
    export_merged(module, tmp_path / "forced", other, force=True)
    with pytest.raises(PathError):
        export_merged(module, tmp_path / "forced", backbone)


@pytest.mark.parametrize(
    ("format", "method"),
    [
        ("adapterhub", Adapter(reads="sum", where=("ff.norm",))),
        ("adapterhub", LoRA()),
        ("opendelta", Adapter()),
        ("peft", LoRA()),
        ("native", Adapter(reads="sum", where=("ff.norm",))),
    ],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
def test_a_checkpoint_of_another_library_comes_back_as_the_same_module(format, method, tmp_path):
    backbone = tiny.tiny_backbone("bert")
    module = module_for(backbone, method)
    export_as(module, tmp_path / "toy", format)
    assert not (tmp_path / "toy" / "card.json").exists()
    page = (tmp_path / "toy" / "README.md").read_text()
    assert module.id in page
    assert "MIT" in page
    again = import_checkpoint(tmp_path / "toy", backbone, allow_pickle=format == "opendelta").module
    assert again.id == module.id  # a hash of the tensors
    assert {**again.card.settings, "where": None} == {**module.card.settings, "where": None}
    with pytest.raises(PathError):
        export_as(module, tmp_path / "toy", format)


def test_a_format_that_cannot_hold_the_module_leaves_nothing_behind(tmp_path):
    module = module_for(tiny.tiny_backbone("bert"), Adapter(reads="sum", where=("ff.norm",)))
    for format, said in (("opendelta", "reads the sum"), ("peft", "PEFT has no adapter"), ("adapterhup", "adapterhub")):
        with pytest.raises(FormatError, match=said):
            export_as(module, tmp_path / "toy", format)
    assert not list(tmp_path.iterdir())
