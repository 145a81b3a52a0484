from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.deltas import METHODS, Adapter, BitFit, Delta, LoRA, Prefix
from transfer.errors import DeltaError, UnknownNameError


def test_what_was_frozen_before_stays_frozen(tiny_model):
    model = tiny_model("bert")
    model.embeddings.requires_grad_(False)
    attached = LoRA().attach(model)
    attached.detach()
    assert not any(parameter.requires_grad for parameter in model.embeddings.parameters())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


def test_attaching_twice_and_detaching_twice_change_nothing(tiny_model):
    model = tiny_model("bert")
    attached = LoRA().attach(model)
    assert attached.attach() is attached
    assert sum(1 for name, _ in model.named_children() if name.startswith("delta_")) == 1
    attached.detach()
    assert attached.detach() is attached
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_different_methods_on_one_model(tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    before = outputs(model, inputs)
    three = [method.attach(model) for method in (LoRA(), Prefix(), Adapter())]
    for attached in three:
        disturbed(attached)
    three[1].detach()
    three[0].detach()
    alone = outputs(model, inputs)
    three[2].detach()
    assert torch.equal(outputs(model, inputs), before)
    three[2].attach()
    assert torch.equal(outputs(model, inputs), alone)


def test_a_refused_load_copies_nothing(tiny_model, disturbed):
    attached = LoRA().attach(tiny_model("bert"))
    before = {name: tensor.clone() for name, tensor in attached.state_dict().items()}
    wrong = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    wrong.popitem()
    with pytest.raises(DeltaError, match="missing 1"):
        attached.load_state_dict(wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in attached.state_dict().items())
    result = attached.load_state_dict({**wrong, "other": torch.ones(1)}, strict=False)
    assert len(result.missing_keys) == 1
    assert result.unexpected_keys == ["other"]


def test_assigning_is_refused(tiny_model):
    attached = LoRA().attach(tiny_model("bert"))
    with pytest.raises(DeltaError, match="assign=True"):
        attached.load_state_dict(attached.state_dict(), assign=True)


def test_the_mode_of_the_host_is_taken_over(tiny_model):
    model = tiny_model("bert").train()
    attached = LoRA().attach(model)
    assert attached.training
    model.eval()
    assert not attached.training


def test_given_tensors_are_copied_and_cast(tiny_model):
    model = tiny_model("bert")
    start = {name: tensor.half() for name, tensor in LoRA().draw(model).items()}
    attached = LoRA().attach(model, start)
    assert all(tensor.dtype == torch.float32 for tensor in attached.state_dict().values())
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, LoRA().draw(model)[name].half()) for name, tensor in start.items())


def test_a_host_of_another_dtype_takes_the_delta_along(tiny_model):
    model = tiny_model("bert")
    attached = LoRA().attach(model)
    model.double()
    assert all(parameter.dtype == torch.float64 for parameter in attached.parameters())
    model(input_ids=torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("name", METHODS.names())
def test_a_delta_by_itself_comes_from_what_is_attached(name, tiny_model, disturbed):
    model = tiny_model("bert")
    attached = METHODS.get(name)().attach(model)
    disturbed(attached)
    delta = Delta.from_attached(attached)
    attached.detach()
    assert delta.n_parameters == attached.n_parameters
    assert delta.settings["places"] == attached.places
    again = delta.attach(model)
    assert all(torch.equal(tensor, delta.tensors[key]) for key, tensor in again.state_dict().items())


def test_an_unknown_method_proposes_the_close_one():
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        METHODS.get("lorra")


def test_the_three_methods_have_matched_sizes_on_the_embedded_backbone(embedded):
    sizes = {
        name: sum(torch.Size(s).numel() for s in METHODS.get(name)().shapes(embedded).values())
        for name in ("lora", "prefix", "adapter")
    }
    assert sizes == {"lora": 73_728, "prefix": 73_728, "adapter": 78_432}
    assert max(sizes.values()) <= 1.25 * min(sizes.values())


def test_a_head_that_was_turned_on_stays_on(tiny_model):
    model = nn.ModuleDict({"bert": tiny_model("bert"), "head": nn.Linear(8, 2)})
    attached = LoRA(where="attention.self.query").attach(model)
    assert not model["head"].weight.requires_grad
    model["head"].requires_grad_(True)
    attached.detach()
    attached.attach()
    assert model["head"].weight.requires_grad
    assert not any(parameter.requires_grad for parameter in model["bert"].parameters())
    Adapter(where="output.dense").attach(model)
    assert model["head"].weight.requires_grad  # a second delta leaves it as it is


def test_a_delta_comes_off_a_model_that_has_lost_a_layer(tiny_model):
    model = tiny_model("bert")
    attached = LoRA().attach(model)
    model.encoder.layer = model.encoder.layer[:1]
    attached.detach()
    assert not [name for name, _ in model.named_children() if name.startswith("delta_")]


def test_on_an_offloaded_model_the_delta_keeps_its_values(tiny_model, inputs_for, disturbed):
    accelerate = pytest.importorskip("accelerate")
    expected = tiny_model("bert")
    tensors = disturbed(LoRA().attach(expected))
    model = accelerate.cpu_offload(tiny_model("bert"), execution_device=torch.device("cpu"))
    attached = LoRA().attach(model, tensors)
    assert {str(tensor.device) for tensor in attached.state_dict().values()} == {"cpu"}
    inputs = inputs_for("bert")
    with torch.no_grad():
        ours, theirs = (one(**inputs).last_hidden_state for one in (model, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("method", [LoRA(where="out_proj"), Adapter(where="out_proj"), BitFit(where="out_proj")])
def test_what_torch_s_attention_never_calls_is_refused(method):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    with pytest.raises(DeltaError, match=r"(?s)self_attn.out_proj.*without calling it.*exclude="):
        method.attach(model)
    assert len(LoRA(where=("linear1", "out_proj"), exclude="out_proj").attach(model).places) == 1
