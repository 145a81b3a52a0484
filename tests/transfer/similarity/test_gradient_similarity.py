"""The gradient family against explicit gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch

from transfer.deltas import METHODS, Adapter, LoRA, Prefix
from transfer.deltas.blocks import block_indices
from transfer.deltas.modules import is_conv1d, named_modules
from transfer.errors import SourceError
from transfer.similarity import Target, gradient, module_signature
from transfer.similarity.capture import tensor_gradients
from transfer.similarity.gradient import FirstOrder, GradientAlignment, GradientNorm
from zoo import Signature


def weight_gradients(backbone, places, encoded):
    """dL/dW (out, in) of the mean loss by autograd."""
    modules = named_modules(backbone)
    weights = [modules[place].weight.requires_grad_(True) for place in places]
    found = torch.autograd.grad(backbone(**backbone.collate(encoded))["loss"], weights)
    backbone.model.requires_grad_(False)
    return {p: g.T if is_conv1d(modules[p]) else g for p, g in zip(places, found, strict=True)}


@pytest.mark.parametrize("arch", ["bert", "roberta", "deberta-v2", "t5", "bart", "gpt2", "llama", "qwen2"])
def test_first_order_of_loras_is_the_product_with_the_weights_gradient(arch, toys):
    backbone = tiny.tiny_backbone(arch)
    modules = toys.modules(backbone, LoRA())
    target = toys.target(backbone, modules, n=37)  # three batches, the last one short
    places = LoRA().places(backbone.model)
    by_weight = weight_gradients(backbone, places, target.encoded)
    columns = block_indices(places)
    expected, by_block = [], np.zeros((len(modules), max(columns.values()) + 1))
    for number, module in enumerate(modules):
        t = module.tensors(dtype=torch.float32)
        change = {p: 2.0 * t[f"{p}.lora_B"] @ t[f"{p}.lora_A"] for p in places}  # alpha / rank = 16 / 8
        shares = {p: -float((by_weight[p] * change[p]).sum()) for p in places}
        expected.append(sum(shares.values()))
        for p, share in shares.items():
            by_block[number, columns[p]] += share
    np.testing.assert_allclose(FirstOrder().score(target, modules), expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(FirstOrder().score_blocks(target, modules)[1], by_block, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", [LoRA(), Adapter(), Prefix()], ids=["lora", "adapter", "prefix"])
def test_first_order_is_the_slope_of_the_loss_on_the_way_to_the_module(method, toys):
    """For a small step the loss changes by as much as the score says."""
    backbone = tiny.tiny_backbone("bert")
    start = method.draw(backbone.model)
    generator = torch.Generator().manual_seed(5)
    step = {name: 1e-3 * torch.randn(value.shape, generator=generator) for name, value in start.items()}
    if isinstance(method, LoRA):  # its product B A starts at zero, so only B moves in first order
        step = {name: value if "lora_B" in name else 0 * value for name, value in step.items()}
    module = toys.module(backbone, method, {name: start[name] + step[name] for name in start}, start=start)
    target = toys.target(backbone, [module], method)

    def loss(by):
        with backbone.use(method, {name: start[name] + by * step[name] for name in start}):
            return float(backbone.loss(target.encoded).double().mean())

    slope = (loss(1.0) - loss(-1.0)) / 2
    assert FirstOrder().score(target, [module])[0] == pytest.approx(-slope, rel=2e-2, abs=2e-6)


def test_loras_of_different_ranks_places_and_scales_are_scored_in_one_pass(toys):
    backbone = tiny.tiny_backbone("bert")
    kinds = [LoRA(rank=2, alpha=5), LoRA(rank=7), LoRA(rank=3, alpha=1, where=("attn.q", "ff.w2"))]
    modules = [m for kind in kinds for m in toys.modules(backbone, kind, n=2)]
    target = toys.target(backbone, modules)
    alone = [float(FirstOrder().score(target, [module])[0]) for module in modules]
    np.testing.assert_allclose(FirstOrder().score(target, modules), alone, rtol=1e-4, atol=1e-6)


def test_more_modules_than_a_chunk_holds_get_the_same_scores(monkeypatch, world, toys):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    at_once = FirstOrder().score(target, modules)
    with monkeypatch.context() as few:
        few.setattr(gradient, "CHUNK", 2)
        np.testing.assert_allclose(FirstOrder().score(target, modules), at_once, rtol=1e-5, atol=1e-7)
    size = sum(tensor.numel() for tensor in modules[0].tensors().values())
    monkeypatch.setattr(gradient, "MOST_VALUES", 2 * size + 1)
    owners = [next(iter(stack.values()))[2] for _, stack in gradient._stacks(modules, "cpu")]
    assert [sorted(set(owner.tolist())) for owner in owners] == [[0, 1], [2]]
    np.testing.assert_allclose(FirstOrder().score(target, modules), at_once, rtol=1e-5, atol=1e-7)
    monkeypatch.setattr(gradient, "MOST_KEPT", 1)  # the second chunk is read anew for each batch
    np.testing.assert_allclose(FirstOrder().score(target, modules), at_once, rtol=1e-5, atol=1e-7)


def test_first_order_takes_the_gradient_of_what_each_module_does_with_its_tensors(toys):
    """Adapters of equal shapes and another activation: the slope is that of their own loss."""
    backbone, other = tiny.tiny_backbone("bert"), Adapter(activation="relu")
    modules = toys.modules(backbone, Adapter(), n=2)
    start = modules[0].start()
    odd = toys.module(backbone, other, toys.moved(start, 0.2, 7), "odd", start=start)
    target = toys.target(backbone, modules, "adapter")
    found = float(FirstOrder().score(target, [*modules, odd])[2])
    slope = tensor_gradients(backbone, other, start, target.sample)
    moved = odd.tensors(dtype=torch.float32)
    expected = -sum(float((slope[name] * (moved[name] - start[name])).sum()) for name in slope)
    assert found == pytest.approx(expected, rel=1e-4)
    plain = target.gradient()
    assert any(not torch.allclose(plain[name], slope[name], rtol=1e-2) for name in slope)


def test_one_backward_pass_scores_all_loras(world, toys, monkeypatch):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    calls, forward = [], backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda **batch: calls.append(1) or forward(**batch))
    FirstOrder().score(target, modules)
    assert len(calls) == 1


def test_first_order_in_parameter_space_refuses_other_sizes_by_name(toys):
    backbone = tiny.tiny_backbone("bert")
    modules = [*toys.modules(backbone, Adapter()), *toys.modules(backbone, Adapter(bottleneck=3), n=1)]
    with pytest.raises(SourceError, match=f"module '{modules[-1].id}' cannot be compared tensor by tensor"):
        FirstOrder().score(toys.target(backbone, modules, "adapter"), modules)


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
@pytest.mark.parametrize("method", [LoRA(), Adapter(), Prefix()], ids=["lora", "adapter", "prefix"])
def test_grand_is_minus_the_norm_of_the_gradient_at_the_module(method, arch, toys):
    backbone = tiny.tiny_backbone(arch)
    modules = toys.modules(backbone, method)
    target = toys.target(backbone, modules, method)  # ten examples: a single batch
    expected, by_block = [], []
    for module in modules:
        attached = backbone.attach(method, module.tensors(dtype=torch.float32))
        backbone(**backbone.collate(target.encoded))["loss"].backward()
        squares = {n: float((p.grad.double() ** 2).sum()) for n, p in attached.named_tensors() if p.grad is not None}
        expected.append(-math.sqrt(sum(squares.values())))
        columns = block_indices(squares)
        by_block.append([0.0] * (max(columns.values()) + 1))
        for name, square in squares.items():
            by_block[-1][columns[name]] += square
        backbone.detach()
    np.testing.assert_allclose(GradientNorm().score(target, modules), expected, rtol=1e-4)
    np.testing.assert_allclose(GradientNorm().score_blocks(target, modules)[1], -np.sqrt(by_block), rtol=1e-4)


def test_grand_is_the_mean_over_batches(toys):
    backbone, method = tiny.tiny_backbone("bert"), LoRA()
    modules = toys.modules(backbone, method, n=1)
    target = toys.target(backbone, modules, n=20)  # batches of 16 and 4
    norms = []
    with backbone.use(method, modules[0].tensors(dtype=torch.float32)) as attached:
        for _, batch in backbone.batches(target.sample, 16):
            attached.zero_grad()
            backbone(**backbone.collate(batch))["loss"].backward()
            norms.append(float(torch.sqrt(sum((p.grad.double() ** 2).sum() for p in attached.parameters()))))
    assert len(norms) == 2
    assert GradientNorm().score(target, modules)[0] == pytest.approx(-np.mean(norms), rel=1e-4)


def test_alignment_is_one_with_the_own_gradient_and_minus_one_with_its_opposite(world, toys):
    backbone, method, modules = world()
    target = toys.target(backbone, modules)
    ours = target.gradient_sketch()
    made = [
        toys.module(backbone, method, modules[number].tensors(), f"s{number}", Signature(gradient_sketch=sketch))
        for number, sketch in enumerate((ours, -2 * ours, np.roll(ours, 1)))
    ]
    scores = GradientAlignment().score(target, made)
    assert scores[0] == pytest.approx(1)
    assert scores[1] == pytest.approx(-1)
    assert abs(scores[2]) < 0.2


@pytest.mark.parametrize("name", METHODS.names())
def test_alignment_prefers_the_module_whose_source_is_the_target_itself(name, toys):
    backbone, method = tiny.tiny_backbone("bert"), METHODS.get(name)()
    start = method.draw(backbone.model)
    same, flipped = toys.task(12), toys.task(12)
    other = [{**row, "label": 1 - row["label"]} for row in flipped.train]
    modules = []
    for task, rows in (("same", same.train), ("flipped", other)):
        tensors = toys.moved(start, 0.1, seed=len(task))
        signature = module_signature(backbone, backbone.encode(rows), method, tensors, start)
        modules.append(toys.module(backbone, method, tensors, task, signature, start))
    scores = GradientAlignment().score(Target.for_modules(same, backbone, modules, name), modules)
    assert scores[0] == pytest.approx(1, abs=1e-4)
    assert scores[1] < 0.5


def trained_on(task, method, backbone, toys, seed):
    """A module with the signature of a task."""
    start = method.draw(backbone.model)
    tensors = toys.moved(start, 0.1, seed)
    signature = module_signature(backbone, backbone.encode(task.train), method, tensors, start)
    return toys.module(backbone, method, tensors, f"{task.name}-{seed}", signature, start)


def test_alignment_compares_loras_of_other_places_there(toys, monkeypatch):
    backbone, task = tiny.tiny_backbone("bert"), toys.task(12)
    other = LoRA(where=("ff.w1", "ff.w2"))
    kinds = [LoRA(), LoRA(rank=2), LoRA(rank=3), other, LoRA(where=other.where, rank=2)]
    modules = [trained_on(task, kind, backbone, toys, seed) for seed, kind in enumerate(kinds)]
    target, calls, forward = toys.target(backbone, modules, n=12), [], backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda **batch: calls.append(1) or forward(**batch))
    assert GradientAlignment().score(target, modules) == pytest.approx(np.ones(5), abs=1e-4)
    GradientAlignment().score(target, modules)
    assert len(calls) == 2  # one pass for all modules of the same places


def test_alignment_by_the_deltas_tensors_refuses_other_sizes_by_name(toys):
    backbone, task = tiny.tiny_backbone("bert"), toys.task(12)
    kinds = [Adapter(), Adapter(), Adapter(bottleneck=3)]
    modules = [trained_on(task, kind, backbone, toys, seed) for seed, kind in enumerate(kinds)]
    target = toys.target(backbone, modules, "adapter", n=12)
    with pytest.raises(SourceError, match=f"module '{modules[2].id}' cannot be compared tensor by tensor"):
        GradientAlignment().score(target, modules)
    assert GradientAlignment().score(target, modules[:2]) == pytest.approx([1, 1], abs=1e-4)
