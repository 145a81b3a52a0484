"""Signatures against the same quantities computed from whole matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset

from transfer.deltas import METHODS, Adapter, LoRA, n_blocks
from transfer.similarity.capture import tensor_gradients, weight_gradients
from transfer.similarity.signatures import module_signature, task_signature
from transfer.similarity.sketch import sketch_tensors
from transfer.tasks import Task


def toy_task(n: int = 12) -> Task:
    split = Dataset.from_list(tiny.sentiment_rows(n))
    return Task(name="toy", kind="classification", train=split, dev=split, test=split)


def moved(method, backbone, by: float = 0.1):
    generator = torch.Generator().manual_seed(3)
    start = method.draw(backbone.model)
    return start, {name: value + by * torch.randn(value.shape, generator=generator) for name, value in start.items()}


def test_task_signature_holds_mean_variance_and_examples_of_the_bare_backbone():
    backbone, task = tiny.tiny_backbone("bert"), toy_task()
    expected = backbone.embed(task.train["input"]).numpy()
    backbone.attach(LoRA(), moved(LoRA(), backbone)[1])
    signature = task_signature(backbone, task)
    np.testing.assert_allclose(signature.centroid, expected.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(signature.variance, expected.var(axis=0), atol=1e-6)
    assert sorted(signature.examples[:, 0].tolist()) == pytest.approx(sorted(expected[:, 0].tolist()), abs=1e-3)
    assert backbone.delta is not None


def test_task_signature_of_a_large_task_keeps_64_examples_of_many():
    signature = task_signature(tiny.tiny_backbone("bert"), toy_task(600))
    assert signature.examples.shape == (64, 32)


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_gets_the_three_parts(name, arch):
    backbone, method = tiny.tiny_backbone(arch), METHODS.get(name)()
    start, tensors = moved(method, backbone)
    encoded = backbone.encode(toy_task().train)
    one, two = (module_signature(backbone, encoded, method, tensors, start) for _ in range(2))
    in_blocks = n_blocks(tensors) > 0  # a soft prompt stands before them
    assert one.holds == ("weight_sketch", "gradient_sketch", *(["block_norms"] if in_blocks else []))
    assert one == two
    assert not in_blocks or (one.block_norms > 0).all()


def test_sketches_of_a_lora_are_those_of_its_weights_and_of_the_loss_by_them():
    backbone, method = tiny.tiny_backbone("bert"), LoRA(rank=4, alpha=12)
    start, tensors = moved(method, backbone)
    encoded = backbone.encode(toy_task().train)
    signature = module_signature(backbone, encoded, method, tensors, start)
    places = method.places(backbone.model)
    change = {p: 3.0 * tensors[f"{p}.lora_B"] @ tensors[f"{p}.lora_A"] for p in places}
    np.testing.assert_allclose(signature.weight_sketch, sketch_tensors(change), rtol=1e-3, atol=1e-3)
    gradient = {p: torch.zeros_like(value) for p, value in change.items()}

    def add(pairs):
        for place, (g, x) in pairs.items():
            gradient[place] += g.T @ x

    weight_gradients(backbone, places, encoded, add)
    np.testing.assert_allclose(signature.gradient_sketch, sketch_tensors(gradient), rtol=1e-3, atol=1e-4)
    for block in (0, 1):
        norms = [float(change[p].norm()) for p in places if f"layer.{block}." in p]
        assert signature.block_norms[block] == pytest.approx(math.hypot(*norms), rel=1e-4)


def test_sketches_of_an_adapter_are_those_of_its_tensors():
    backbone, method = tiny.tiny_backbone("bert"), Adapter()
    start, tensors = moved(method, backbone)
    encoded = backbone.encode(toy_task().train)
    signature = module_signature(backbone, encoded, method, tensors, start)
    difference = {name: tensors[name] - start[name] for name in start}
    np.testing.assert_allclose(signature.weight_sketch, sketch_tensors(difference), rtol=1e-4, atol=1e-5)
    gradient = tensor_gradients(backbone, method, start, encoded)
    np.testing.assert_allclose(signature.gradient_sketch, sketch_tensors(gradient), rtol=1e-4, atol=1e-6)


def test_without_a_start_only_what_needs_none_is_there():
    backbone = tiny.tiny_backbone("bert")
    encoded = backbone.encode(toy_task().train)
    lora = module_signature(backbone, encoded, LoRA(), moved(LoRA(), backbone)[1], None)
    assert lora == module_signature(backbone, encoded, LoRA(), moved(LoRA(), backbone)[1], LoRA().draw(backbone.model))
    assert module_signature(backbone, [], LoRA(), moved(LoRA(), backbone)[1], None).holds == (
        "weight_sketch",
        "block_norms",
    )
    adapter = module_signature(backbone, encoded, Adapter(), moved(Adapter(), backbone)[1], None)
    assert adapter.holds == ()
