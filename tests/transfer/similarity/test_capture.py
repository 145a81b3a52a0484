"""Captured gradients against those that autograd gives for the weights and for the delta's own tensors."""

from __future__ import annotations

import pytest
import tiny
import torch

from transfer.deltas import METHODS, LoRA
from transfer.deltas.modules import is_conv1d, named_modules
from transfer.similarity.capture import tensor_gradients, weight_gradients

ROWS = tiny.sentiment_rows(5)


def true_weight_gradients(backbone, places, encoded):
    """dL/dW (out, in) by autograd, all examples in one batch."""
    modules = named_modules(backbone)
    weights = [modules[place].weight.requires_grad_(True) for place in places]
    loss = backbone(**backbone.collate(encoded))["loss"]
    found = torch.autograd.grad(loss, weights)
    backbone.model.requires_grad_(False)
    return {
        place: gradient.T if is_conv1d(modules[place]) else gradient
        for place, gradient in zip(places, found, strict=True)
    }


@pytest.mark.parametrize("arch", ["bert", "deberta-v2", "t5", "bart", "gpt2", "qwen2"])
def test_weight_gradients_are_those_of_autograd_whatever_the_batches(arch):
    backbone = tiny.tiny_backbone(arch)
    encoded = backbone.encode(ROWS)
    places = LoRA().places(backbone.model)
    total = {}

    def add(pairs):
        for place, (g, x) in pairs.items():
            total[place] = total.get(place, 0) + g.T @ x

    weight_gradients(backbone, places, encoded, add, batch_size=2)
    expected = true_weight_gradients(backbone, places, encoded)
    assert set(total) == set(expected)
    for place, gradient in expected.items():
        torch.testing.assert_close(total[place], gradient, rtol=1e-3, atol=1e-5)


def test_capturing_leaves_the_backbone_as_it_was():
    backbone = tiny.tiny_backbone("bert")
    encoded = backbone.encode(ROWS)
    before = backbone.choice_logits(encoded)
    weight_gradients(backbone, LoRA().places(backbone.model), encoded, lambda pairs: None)
    assert torch.equal(backbone.choice_logits(encoded), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_what_is_attached_is_off_while_weights_are_looked_at_and_back_afterwards():
    backbone = tiny.tiny_backbone("bert")
    encoded, places = backbone.encode(ROWS), LoRA().places(backbone.model)
    bare, with_delta = [], []
    weight_gradients(backbone, places, encoded, bare.append)
    start = LoRA().draw(backbone.model)
    attached = backbone.attach(LoRA(), {name: value + 0.3 for name, value in start.items()})
    weight_gradients(backbone, places, encoded, with_delta.append)
    assert all(torch.equal(bare[0][place][0], with_delta[0][place][0]) for place in places)
    assert backbone.delta is attached
    assert attached.attached


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
@pytest.mark.parametrize("name", METHODS.names())
def test_tensor_gradients_are_those_of_a_single_backward_pass(name, arch):
    backbone = tiny.tiny_backbone(arch)
    encoded, method = backbone.encode(ROWS), METHODS.get(name)()
    tensors = {n: value + 0.05 for n, value in method.draw(backbone.model).items()}
    found = tensor_gradients(backbone, method, tensors, encoded, batch_size=2)
    attached = backbone.attach(method, tensors)
    backbone(**backbone.collate(encoded))["loss"].backward()
    assert set(found) == set(tensors)
    for n, parameter in attached.named_tensors():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[n], expected, rtol=1e-3, atol=1e-6)
