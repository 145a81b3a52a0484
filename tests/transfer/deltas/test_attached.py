from __future__ import annotations

import pytest
import torch

from transfer.deltas import METHODS, Adapter, Delta, LoRA, Prefix
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
