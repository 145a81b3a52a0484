"""On quantised linear layers: anything with in and out features is a place."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch import nn

from transfer.deltas import METHODS, Adapter, BitFit, LoRA, Mixed, Prefix
from transfer.errors import DeltaError


class Int8Linear(nn.Module):
    """Weights as int8 with a scale for each row, in buffers; no parameter at all."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("values", (layer.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", layer.bias.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.values * self.scale, self.bias)


def int8(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Int8Linear(child))
    return model


def dynamic(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


WAYS = {"int8": int8, "dynamic": dynamic}


@pytest.fixture(params=WAYS)
def quantised(request, tiny_model):
    model = tiny_model("bert")
    n_linear = sum(type(module) is nn.Linear for module in model.modules())
    model = WAYS[request.param](model)
    assert n_linear > 8
    assert not any(type(module) is nn.Linear for module in model.modules())
    return model


@pytest.mark.parametrize("name", METHODS.names())
@torch.no_grad()
def test_on_off_copied_and_on_again(name, quantised, inputs_for, outputs, tiny_model):
    inputs, method = inputs_for("bert"), METHODS.get(name)()
    assert method.shapes(quantised) == method.shapes(tiny_model("bert"))
    before = outputs(quantised, inputs)
    delta = tiny.random_delta(method, quantised, 0)
    attached = delta.attach(quantised)
    changed = outputs(quantised, inputs)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(outputs(copy.deepcopy(quantised), inputs), changed)
    attached.detach()
    assert torch.equal(outputs(quantised, inputs), before)
    attached.attach()
    assert torch.equal(outputs(quantised, inputs), changed)


@torch.no_grad()
def test_lora_adds_its_product_to_what_the_layer_gives(quantised):
    place = "encoder.layer.0.attention.self.query"
    layer, x = quantised.get_submodule(place), torch.randn(2, 5, 32)
    plain = layer(x)
    delta = tiny.random_delta(LoRA(), quantised, 0)
    delta.attach(quantised)
    a, b = delta.tensors[f"{place}.lora_A"], delta.tensors[f"{place}.lora_B"]
    assert torch.allclose(layer(x), plain + 2 * x @ a.T @ b.T, atol=1e-5)


@torch.no_grad()
def test_rows_of_a_mixed_batch_are_as_alone(quantised, inputs_for):
    inputs = inputs_for("bert")
    deltas = [
        tiny.random_delta(method, quantised, seed)
        for seed, method in enumerate((LoRA(), Adapter(), Prefix(), BitFit()))
    ]
    for rows in ([0, 1, None], [2, 3, 0]):
        alone = []
        for row, number in enumerate(rows):
            attached = None if number is None else deltas[number].attach(quantised)
            # The whole batch: dynamic quantisation takes its scale from all that a layer is given.
            alone.append(quantised(**inputs).last_hidden_state[row])
            if attached is not None:
                attached.detach()
        mixed = Mixed(quantised, deltas).attach()
        with mixed.rows(rows):
            found = quantised(**inputs).last_hidden_state
        mixed.detach()
        exact = any(isinstance(module, Int8Linear) for module in quantised.modules())
        error = (found - torch.stack(alone)).norm() / found.norm()
        assert error < (1e-5 if exact else 0.05)


@pytest.mark.parametrize("name", METHODS.names())
def test_training_on_weights_that_are_unpacked_reaches_every_tensor(name, tiny_model, inputs_for, outputs):
    model, inputs = int8(tiny_model("bert")), inputs_for("bert")
    attached = tiny.random_delta(METHODS.get(name)(), model, 0).attach(model)
    outputs(model, inputs).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in attached.parameters())


def test_merging_into_quantised_weights_is_refused(quantised):
    attached = tiny.random_delta(LoRA(), quantised, 0).attach(quantised)
    with pytest.raises(DeltaError, match="cannot be merged into the backbone"):
        attached.merge()
    assert attached.attached
