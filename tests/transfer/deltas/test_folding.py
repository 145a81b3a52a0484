"""Merging into the backbone: the outputs stay, the delta is gone."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from transfer.deltas import METHODS, Adapter, BitFit, LoRA, Prefix
from transfer.errors import DeltaError

EXACT = ("lora", "bitfit", "sora")


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_the_merged_backbone_answers_as_the_delta_did(name, arch, tiny_model, inputs_for, outputs, disturbed):
    where = {} if name != "bitfit" else {"where": ("attn.q", "attn.v", "ff.w2")}  # not every norm has a bias to add to
    model, inputs = tiny_model(arch), inputs_for(arch)
    before = outputs(model, inputs)
    attached = METHODS.get(name)(**where).attach(model)
    disturbed(attached)
    expected = outputs(model, inputs)
    assert attached.merge() is model
    assert not attached.attached
    assert not [child for child, _ in model.named_children() if child.startswith("delta_")]
    assert torch.allclose(outputs(model, inputs), expected, atol=2e-5)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_weights_by_hand_in_double_precision(tiny_model):
    torch.manual_seed(0)
    model = nn.ModuleDict({"one": nn.Linear(5, 3), "two": nn.Linear(5, 3, bias=False), "norm": nn.LayerNorm(5)})
    model.double()
    weight, bias = model["one"].weight.clone(), model["norm"].bias.clone()
    lora = LoRA(where="one", rank=2, alpha=3).attach(model)
    biases = BitFit(where=("two", "norm")).attach(model)
    for attached in (lora, biases):
        attached.double()
        attached.load_state_dict({n: torch.randn(t.shape, dtype=t.dtype) for n, t in attached.state_dict().items()})
    a, b, two, norm = (t.clone() for t in (*lora.state_dict().values(), *biases.state_dict().values()))
    lora.merge()
    biases.merge()
    assert torch.allclose(model["one"].weight, weight + 1.5 * b @ a, atol=1e-12)
    assert torch.equal(model["two"].bias, two)
    assert torch.allclose(model["norm"].bias, bias + norm, atol=1e-12)


@torch.no_grad()
def test_gpt2_holds_its_weights_the_other_way_round(tiny_model, disturbed):
    model = tiny_model("gpt2")
    layer = model.transformer.h[0].attn.c_attn
    weight = layer.weight.clone()
    attached = LoRA(rank=2, alpha=4, where="h.0.attn.c_attn").attach(model)
    a, b = disturbed(attached).values()
    attached.merge()
    assert torch.allclose(layer.weight, weight + 2 * (b @ a).T, atol=1e-5)


@torch.no_grad()
def test_a_bf16_backbone_stays_one(tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model("bert").to(torch.bfloat16), inputs_for("bert")
    attached = LoRA().attach(model)
    disturbed(attached)
    expected = outputs(model, inputs).float()
    attached.merge()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert (outputs(model, inputs).float() - expected).abs().max() < 0.1 * expected.abs().max()


@torch.no_grad()
def test_what_else_is_attached_stays_on(tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    lora, biases = LoRA().attach(model), BitFit(where="attn.q").attach(model)
    disturbed(lora)
    disturbed(biases)
    expected = outputs(model, inputs)
    lora.merge()
    assert biases.attached
    assert torch.allclose(outputs(model, inputs), expected, atol=2e-5)
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "delta_" not in name)


@pytest.mark.parametrize("name", [name for name in METHODS.names() if name not in EXACT])
def test_other_methods_are_refused_by_name(name, tiny_model):
    model = tiny_model("bert")
    attached = METHODS.get(name)().attach(model)
    with pytest.raises(DeltaError, match=f"method {name!r} cannot be merged into the backbone"):
        attached.merge()
    assert attached.attached


def test_a_tied_weight_is_left_alone(tiny_model):
    model = tiny_model("gpt2")
    attached = LoRA(where="lm_head").attach(model)
    with pytest.raises(DeltaError, match=r"lm_head\.weight is tied to transformer\.wte\.weight"):
        attached.merge()


def test_a_norm_without_a_bias_is_refused_by_name_and_nothing_is_changed(tiny_model, disturbed):
    model = tiny_model("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    attached = BitFit(where=("attn.q", "input_layernorm")).attach(model)
    disturbed(attached)
    with pytest.raises(DeltaError, match=r"(?s)input_layernorm.*LlamaRMSNorm, which has no bias"):
        attached.merge()
    attached.detach()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert len(before) == len(list(model.parameters()))


def test_quantised_weights_are_refused(tiny_model):
    model = nn.ModuleDict({"layer": nn.Linear(4, 4)})
    model["layer"].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(DeltaError, match="quantised"):
        LoRA(where="layer").attach(model).merge()


def test_only_what_is_attached_can_be_merged(tiny_model):
    attached = LoRA().attach(tiny_model("bert")).detach()
    with pytest.raises(DeltaError, match="on no model"):
        attached.merge()


def test_what_acts_before_at_the_same_place_is_in_the_way(tiny_model):
    model = tiny_model("bert")
    first = Adapter(where=("attn.proj",)).attach(model)
    lora = LoRA(where=("attn.proj",)).attach(model)
    with pytest.raises(DeltaError, match="another one acts before it"):
        lora.merge()
    assert lora.attached
    first.detach()
    lora.merge()
    with_plain = BitFit(where=("attn.proj",)).attach(model)
    LoRA(where=("attn.proj",)).attach(model).merge()  # a bias before it is a change of parameters itself
    with_plain.detach()


def test_what_passes_by_the_layer_s_hooks_must_come_off_first(tiny_model, disturbed):
    """A prefix of DeBERTa puts rows in place of a layer's own; an adapter before a norm calls it without hooks."""
    deberta = tiny_model("deberta-v2")
    Prefix().attach(deberta)
    behind = BitFit(where="attn.v").attach(deberta)
    bert = tiny_model("bert")
    norms = BitFit(where="ff.norm").attach(bert)
    Adapter(reads="sum", where="ff.norm").attach(bert)
    for attached in (behind, norms):
        disturbed(attached)
        with pytest.raises(DeltaError, match=r"(?s)another one acts before it.*detach that one first"):
            attached.merge()


def test_weights_of_eight_bits_are_no_weights_to_change():
    model = nn.ModuleDict({"one": nn.Linear(4, 4)})
    model["one"].weight = nn.Parameter(model["one"].weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    attached = LoRA(where="one", rank=1).attach(model)
    with pytest.raises(DeltaError, match="is quantised"):
        attached.merge()
