"""Against the real `peft`: folders of ours load there, folders from there load here, and the outputs are equal."""

from __future__ import annotations

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from transfer.deltas import METHODS, Delta, LoRA, Prefix, SoftPrompt, structure
from transfer.deltas.modules import named_modules
from zoo.formats import peft

KINDS = (
    dict.fromkeys(tiny.ENCODERS, "encoder")
    | dict.fromkeys(tiny.CAUSAL, "causal")
    | dict.fromkeys(tiny.SEQ2SEQ, "seq2seq")
)
# Prefixes that PEFT computes as we do: no encoder-decoders, and DeBERTa takes none there.
PREFIXED = ["bert", "roberta", "gpt2", "llama", "qwen2"]


def write(folder, method, model, tensors, arch):
    peft.write(folder, method.method, method.settings(model), tensors, f"tiny-{arch}", kind=KINDS[arch])


def read(folder, model):
    """The delta in a PEFT folder, fitted to the names of the model."""
    name, settings, tensors = peft.read(folder, list(named_modules(model)), structure(model)["attn"])
    return Delta(METHODS.get(name).from_settings(settings), dict(tensors))


@torch.no_grad()
@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_our_lora_gives_the_same_in_peft(arch, tmp_path, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    method = LoRA(rank=4, alpha=12)
    attached = method.attach(model)
    tensors = disturbed(attached)
    expected = outputs(model, inputs)
    attached.detach()
    write(tmp_path, method, model, tensors, arch)
    loaded = PeftModel.from_pretrained(tiny_model(arch), str(tmp_path)).eval()
    assert torch.allclose(outputs(loaded, inputs), expected, atol=1e-5)


@torch.no_grad()
def test_our_lora_with_ranks_and_alphas_by_place_gives_the_same(tmp_path, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    place = "encoder.layer.1.attention.self.query"
    method = LoRA(rank=4, alpha=12, ranks={place: 2}, alphas={place: 5})
    attached = method.attach(model)
    tensors = disturbed(attached)
    expected = outputs(model, inputs)
    attached.detach()
    write(tmp_path, method, model, tensors, "bert")
    loaded = PeftModel.from_pretrained(tiny_model("bert"), str(tmp_path)).eval()
    assert torch.allclose(outputs(loaded, inputs), expected, atol=1e-5)
    read(tmp_path, model).attach(model)
    assert torch.equal(outputs(model, inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("arch", PREFIXED)
def test_our_prefix_gives_the_same_in_peft(arch, shift, tmp_path, tiny_model, inputs_for, outputs, disturbed):
    if not shift:  # PEFT always shifts: such a module is written in our own format
        method = Prefix(length=5, position_shift=False)
        model = tiny_model(arch)
        assert not peft.fits("prefix", method.settings(model), method.draw(model))
        return
    model, inputs = tiny_model(arch), inputs_for(arch)
    method = Prefix(length=5)
    attached = method.attach(model)
    tensors = disturbed(attached)
    expected = outputs(model, inputs)
    attached.detach()
    write(tmp_path, method, model, tensors, arch)
    loaded = PeftModel.from_pretrained(tiny_model(arch), str(tmp_path)).eval()
    assert torch.equal(outputs(loaded, inputs), expected)
    read(tmp_path, model).attach(model)
    assert torch.equal(outputs(model, inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
def test_generation_with_our_prefix_is_that_of_peft(arch, tmp_path, tiny_model, inputs_for, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}
    method = Prefix(length=5)
    attached = method.attach(model)
    tensors = disturbed(attached)
    ours = model.generate(**inputs, **settings)
    assert torch.equal(ours, model.generate(**inputs, **settings, use_cache=False))
    attached.detach()
    write(tmp_path, method, model, tensors, arch)
    loaded = PeftModel.from_pretrained(tiny_model(arch), str(tmp_path)).eval()
    # Token by token through peft's forward: its own `generate` loses the prefix under transformers 5.24.
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(8):
        found = loaded(input_ids=ids, attention_mask=mask).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids, mask = torch.cat([ids, found], dim=1), torch.cat([mask, torch.ones_like(found)], dim=1)
    # peft's forward counts positions from the padding on, so only rows without padding have the same reference.
    whole = inputs["attention_mask"].bool().all(dim=1)
    assert whole.any()
    assert torch.equal(ours[whole], ids[whole])


@torch.no_grad()
@pytest.mark.parametrize(
    "extra",
    [{}, {"use_rslora": True}, {"rank_pattern": {"layer.1.attention.self.query": 2}, "alpha_pattern": {"value": 5}}],
    ids=["plain", "rank-stabilised", "patterns"],
)
def test_a_lora_of_peft_gives_the_same_here(extra, tmp_path, tiny_model, inputs_for, outputs):
    inputs = inputs_for("bert")
    theirs = get_peft_model(
        tiny_model("bert"), LoraConfig(r=4, lora_alpha=12, target_modules=["query", "value"], **extra)
    ).eval()
    fill(theirs)
    theirs.save_pretrained(str(tmp_path))
    model = tiny_model("bert")
    attached = read(tmp_path, model).attach(model)
    assert attached.n_parameters == sum(p.numel() for name, p in theirs.named_parameters() if "lora_" in name)
    assert torch.allclose(outputs(model, inputs), outputs(theirs, inputs), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["gpt2", "llama", "t5", "bart"])
def test_a_lora_of_peft_on_its_default_places_gives_the_same_here(arch, tmp_path, tiny_model, inputs_for, outputs):
    theirs = get_peft_model(tiny_model(arch), LoraConfig(r=4, fan_in_fan_out=arch == "gpt2")).eval()
    fill(theirs)
    theirs.save_pretrained(str(tmp_path))
    model, inputs = tiny_model(arch), inputs_for(arch)
    read(tmp_path, model).attach(model)
    assert torch.allclose(outputs(model, inputs), outputs(theirs, inputs), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", PREFIXED)
def test_a_prefix_of_peft_gives_the_same_here(arch, tmp_path, tiny_model, inputs_for, outputs):
    task = "CAUSAL_LM" if arch in tiny.CAUSAL else "FEATURE_EXTRACTION"
    theirs = get_peft_model(tiny_model(arch), PrefixTuningConfig(task_type=task, num_virtual_tokens=5)).eval()
    fill(theirs)
    theirs.save_pretrained(str(tmp_path))
    model, inputs = tiny_model(arch), inputs_for(arch)
    read(tmp_path, model).attach(model)
    assert torch.equal(outputs(model, inputs), outputs(theirs, inputs))


def read_prompt(folder, model):
    name, settings, tensors = peft.read(folder, list(named_modules(model)), SoftPrompt().places(model))
    return Delta(METHODS.get(name).from_settings(settings), dict(tensors))


def text_of(model, inputs, length):
    """As `outputs`, of a model whose hidden states and logits have the prompt's in front."""
    output = model(**inputs)
    values = output.logits if hasattr(output, "logits") else output.last_hidden_state
    if "decoder_input_ids" in inputs:
        return values.flatten(0, 1)
    return values[:, length:][inputs["attention_mask"].bool()]


@torch.no_grad()
@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_our_soft_prompt_gives_the_same_in_peft(arch, tmp_path, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    method = SoftPrompt(length=5)
    attached = method.attach(model)
    tensors = disturbed(attached)
    expected = outputs(model, inputs)
    attached.detach()
    write(tmp_path, method, model, tensors, arch)
    loaded = PeftModel.from_pretrained(tiny_model(arch), str(tmp_path)).eval()
    assert torch.allclose(text_of(loaded, inputs, 5), expected, atol=1e-5)
    read_prompt(tmp_path, model).attach(model)
    assert torch.equal(outputs(model, inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "deberta-v2", "llama", "t5", "bart"])
def test_a_soft_prompt_of_peft_gives_the_same_here(arch, tmp_path, tiny_model, inputs_for, outputs):
    task = {"encoder": "FEATURE_EXTRACTION", "causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}[KINDS[arch]]
    theirs = get_peft_model(tiny_model(arch), PromptTuningConfig(task_type=task, num_virtual_tokens=5))
    fill(theirs)
    theirs.save_pretrained(str(tmp_path))
    model, inputs = tiny_model(arch), inputs_for(arch)
    delta = read_prompt(tmp_path, model)
    assert delta.method.length == 5
    delta.attach(model)
    assert torch.allclose(outputs(model, inputs), text_of(theirs.eval(), inputs, 5), atol=1e-5)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "t5", "bart"])
def test_generation_with_our_soft_prompt_is_that_of_peft(arch, tmp_path, tiny_model, inputs_for, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    inputs.pop("decoder_input_ids", None)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    method = SoftPrompt(length=5)
    attached = method.attach(model)
    tensors = disturbed(attached)
    ours = model.generate(**inputs, **settings)
    attached.detach()
    write(tmp_path, method, model, tensors, arch)
    loaded = PeftModel.from_pretrained(tiny_model(arch), str(tmp_path)).eval()
    # Without a cache: with one peft's own output is another than without, as transformers 5.24 has renamed the cache.
    whole = inputs["attention_mask"].bool().all(dim=1) | (arch in tiny.SEQ2SEQ)  # peft counts positions over padding
    assert torch.equal(ours[whole], loaded.generate(**inputs, **settings, use_cache=False)[whole])


def fill(theirs):
    """Clearly different values, as training would leave them."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name or "prompt_encoder" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
