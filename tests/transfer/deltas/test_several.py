"""Several deltas on one model and at one place: a defined order, and off again in any."""

from __future__ import annotations

import copy
import itertools
import time

import pytest
import tiny
import torch
from torch import nn

from transfer.backbones import wrap_model
from transfer.deltas import Adapter, Attached, BitFit, LoRA, Mixed, ParallelAdapter, Prefix, SoftPrompt, Switch

KINDS = {
    "one place": ("bert", [LoRA(where=("attn.proj",)), Adapter(where=("attn.proj",)), BitFit(where=("attn.proj",))]),
    "one attention": ("gpt2", [Prefix(length=2), Prefix(length=3), LoRA()]),
    "in and out": ("t5", [SoftPrompt(length=2), Prefix(length=2), Adapter()]),
}


@torch.no_grad()
def test_the_one_attached_first_runs_first():
    model, x = nn.Sequential(nn.Linear(3, 4)), torch.randn(2, 3)
    plain = model(x)
    deltas = [tiny.random_delta(Adapter(bottleneck=2, activation="tanh", where=("0",)), model, seed) for seed in (0, 1)]

    def after(h, delta):
        down, down_bias, up, up_bias = (
            delta.tensors[f"0.adapter_{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias")
        )
        return h + torch.tanh(h @ down.T + down_bias) @ up.T + up_bias

    one, other = (after(after(plain, deltas[a]), deltas[b]) for a, b in ((0, 1), (1, 0)))
    assert not torch.allclose(one, other, atol=1e-3)
    first, second = (delta.attach(model) for delta in deltas)
    assert torch.allclose(model(x), one, atol=1e-6)
    first.detach()
    first.attach()  # put back, it is the last
    assert torch.allclose(model(x), other, atol=1e-6)
    second.detach()
    second.attach()
    assert torch.allclose(model(x), one, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_three_come_off_in_any_order(kind, tiny_model, inputs_for, outputs):
    arch, methods = KINDS[kind]
    model, inputs = tiny_model(arch), inputs_for(arch)
    deltas = [tiny.random_delta(method, model, seed) for seed, method in enumerate(methods)]
    bare = outputs(model, inputs)
    expected = {}
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
        attached = [deltas[number].attach(model) for number in chosen]
        expected[chosen] = outputs(model, inputs)
        for one in attached:
            one.detach()
    for order in itertools.permutations(range(3)):
        attached = [delta.attach(model) for delta in deltas]
        left = [0, 1, 2]
        for number in order:
            assert torch.equal(outputs(model, inputs), expected[tuple(left)])
            attached[number].detach()
            left.remove(number)
        assert torch.equal(outputs(model, inputs), bare)
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_going_through_many_modules_attaches_once_and_takes_no_longer_for_the_last(tiny_model):
    model = tiny_model("bert")
    method = LoRA()
    deltas = [tiny.random_delta(method, model, seed) for seed in range(60)]
    switch = Switch(model)
    first = switch.to(deltas[0])
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    parameters = [id(parameter) for parameter in model.parameters()]
    seconds = []
    for delta in deltas:
        begun = time.process_time()
        assert switch.to(delta) is first
        seconds.append(time.process_time() - begun)
        assert all(torch.equal(tensor, delta.tensors[name]) for name, tensor in first.state_dict().items())
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert [id(parameter) for parameter in model.parameters()] == parameters
    # Medians: a pause of the machine is not the switch's. One that grew by each module would be over 3 times slower.
    assert sorted(seconds[-15:])[7] < 3 * sorted(seconds[:15])[7]


@torch.no_grad()
def test_a_parallel_adapter_reads_what_the_model_gave_whatever_came_before(inputs_for, outputs, tiny_model):
    model, inputs = tiny_model("deberta-v2"), inputs_for("deberta-v2")
    made = [tiny.random_delta(method, model, 1) for method in (Prefix(length=3), ParallelAdapter())]
    found = []
    for order in (made, made[::-1]):
        attached = [delta.attach(model) for delta in order]
        found.append(outputs(model, inputs))
        for one in attached:
            one.detach()
    torch.testing.assert_close(found[0], found[1])


def test_a_frozen_delta_on_a_fused_layer_is_copied_and_still_trains_its_rows_alone(inputs_for, tiny_model):
    model = tiny_model("gpt2")
    attached = LoRA().attach(model)
    attached.requires_grad_(False)
    copied = copy.deepcopy(model)
    attached.detach()
    (theirs,) = [child for child in copied.children() if isinstance(child, Attached)]
    assert not any(parameter.requires_grad for parameter in theirs.parameters())
    theirs.requires_grad_(True)
    copied(**inputs_for("gpt2")).logits.sum().backward()
    rows = [p.grad.abs().sum(dim=1) for name, p in theirs.named_parameters() if name.endswith("lora_B")]
    assert all((row == 0).any() for row in rows)  # those of the keys
    assert all((row != 0).any() for row in rows)


@torch.no_grad()
def test_ranks_and_alphas_by_common_names_act_in_a_mixed_batch_too(inputs_for, outputs, tiny_model):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    delta = tiny.random_delta(LoRA(ranks={"attn.q": 4}, alphas={"attn.v": 32.0}), model, 1)
    attached = delta.attach(model)
    alone = outputs(model, inputs)
    attached.detach()
    mixed = Mixed(model, [delta]).attach()
    with mixed.rows([0] * len(inputs["input_ids"])):
        torch.testing.assert_close(outputs(model, inputs), alone, rtol=1e-4, atol=1e-5)
    mixed.detach()


def test_a_model_with_a_delta_on_it_is_the_same_backbone_and_the_delta_trains(tiny_model):
    bare = tiny.tiny_backbone("bert")
    model = copy.deepcopy(bare.model)
    attached = LoRA().attach(model)
    found = wrap_model(model, bare.tokenizer)
    assert found.fingerprint == bare.fingerprint
    assert all(parameter.requires_grad for parameter in attached.parameters())
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora" not in name)
