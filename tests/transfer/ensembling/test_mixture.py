"""Mixtures: what they make of coefficients, and the gradients they send back."""

from __future__ import annotations

import pytest
import small
import torch

from transfer import initialize
from transfer.deltas import LoRA
from transfer.deltas.blocks import block_indices
from transfer.ensembling import merge
from transfer.ensembling.mixture import Mixture
from transfer.errors import ConfigError, DeltaError
from transfer.similarity.target import Target
from zoo import Card, Module


def mixture_of(small_zoo, method="lora", arch="bert"):
    backbone, zoo = small_zoo(arch, method)
    modules = sorted(zoo, key=lambda module: module.id)
    target = Target.for_modules(small.toy_target(), backbone, modules, method)
    return Mixture(backbone, target.method, modules, target.start), target


def test_it_is_the_linear_merge_for_any_coefficients(small_zoo):
    mixture, _ = mixture_of(small_zoo)
    values = [1.5, -0.5, 0.25]
    expected = merge(mixture.modules, {m.id: v for m, v in zip(mixture.modules, values, strict=True)}).tensors
    found = mixture.tensors(torch.tensor(values))
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


def test_with_coefficients_by_block_each_block_is_a_merge_of_its_own(small_zoo):
    mixture, target = mixture_of(small_zoo, "adapter")
    table = torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    found = mixture.tensors(table)
    for name, block in block_indices(found).items():
        start = target.start[name]
        moved = [module.tensors(torch.float32)[name] - start for module in mixture.modules]
        by_hand = start + sum(table[row, block] * moved[row] for row in range(3))
        torch.testing.assert_close(found[name], by_hand, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("method", "arch"), [("lora", "bert"), ("adapter", "gpt2")])
def test_gradients_are_those_through_functional_call(method, arch, small_zoo):
    mixture, target = mixture_of(small_zoo, method, arch)
    backbone = target.backbone
    rows = target.encoded[:5]
    coefficients = torch.tensor([0.3, -0.2, 0.6], requires_grad=True)
    with mixture.acting() as acting:
        acting.backward(mixture.named(mixture.merged(coefficients)), rows)
        # The reference: the merged tensors stand in the place of the parameters inside one graph.
        parameters = {id(parameter): name for name, parameter in backbone.named_parameters()}
        own = {name: parameters[id(tensor)] for name, tensor in backbone.delta.named_tensors()}
        other = coefficients.detach().clone().requires_grad_(True)
        merged = mixture.named(mixture.merged(other))
        batch = backbone.to_device(backbone.collate(rows, train=True))
        swapped = {own[name]: tensor for name, tensor in merged.items()}
        loss = torch.func.functional_call(backbone, swapped, kwargs=batch)["losses"].mean()
        (expected,) = torch.autograd.grad(loss, other)
    assert float(expected.abs().max()) > 1e-6
    torch.testing.assert_close(coefficients.grad, expected, atol=1e-6, rtol=1e-3)
    assert backbone.delta is None


def test_gradients_of_a_prefix_are_those_by_differences(small_zoo):
    mixture, target = mixture_of(small_zoo, "prefix", "t5")
    rows = target.encoded[:5]
    coefficients = torch.tensor([0.3, -0.2, 0.6], requires_grad=True)
    found = []
    with mixture.acting() as acting:
        acting.backward(mixture.named(mixture.merged(coefficients)), rows)
        for way in torch.eye(3):
            ends = [mixture.named(mixture.merged(coefficients.detach() + step * way)) for step in (0.25, -0.25)]
            found.append((acting.measured(ends[0], rows).loss - acting.measured(ends[1], rows).loss) / 0.5)
    assert float(coefficients.grad.abs().max()) > 0.05
    torch.testing.assert_close(coefficients.grad, torch.tensor(found), atol=1e-4, rtol=0.01)


def test_modules_of_other_sizes_are_refused_by_name(small_zoo):
    mixture, target = mixture_of(small_zoo)
    short = {name: tensor[:1] for name, tensor in target.start.items()}
    with pytest.raises(DeltaError, match=mixture.modules[0].id):
        Mixture(target.backbone, target.method, mixture.modules, short)


def test_a_table_by_block_is_the_one_that_a_merge_takes(small_zoo):
    """Also where some blocks have no tensors, and some tensors no block: these get the mean over blocks."""
    backbone, _ = small_zoo()
    place = "encoder.layer.1.attention.self.query"
    method = LoRA(rank=2, at=("embeddings.word_embeddings", place)).fixed(backbone.model)
    start = method.draw(backbone.model)
    fields = {"backbone": "toy", "fingerprint": backbone.fingerprint, "settings": method.settings(backbone.model)}
    modules = []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        moved = {name: t + torch.randn(t.shape, generator=generator) for name, t in start.items()}
        modules.append(Module.new(Card(task=f"t{number}", method="lora", **fields), moved, start=start))
    modules.sort(key=lambda module: module.id)
    mixture = Mixture(backbone, method, modules, start)
    assert mixture.blocks == 2
    table = torch.tensor([[0.25, 1.0], [3.0, -0.5]])
    found = mixture.tensors(table)
    merged = merge(modules, {m.id: row.tolist() for m, row in zip(modules, table, strict=True)}, "linear")
    for name, tensor in merged.tensors.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)


def test_what_lies_in_no_block_has_no_weights_by_block(small_zoo):
    backbone, zoo = small_zoo("bert", "soft-prompt")
    with pytest.raises(ConfigError, match=r"(?s)in no block.*prompt_embeddings"):
        initialize(small.toy_target(), zoo, backbone, "soft-prompt", how="learned", per_block=True, guard=False)
