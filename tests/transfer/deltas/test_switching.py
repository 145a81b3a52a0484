"""Going from delta to delta on one model: the outputs of each alone, tensors copied and not attached anew."""

from __future__ import annotations

import pytest
import tiny
import torch

from transfer.deltas import METHODS, Adapter, Delta, LoRA, Prefix, Switch, switching
from transfer.errors import DeltaError
from zoo import FingerprintError


@pytest.mark.parametrize("name", METHODS.names())
@torch.no_grad()
def test_each_acts_as_it_does_when_attached_alone(name, tiny_model, inputs_for, outputs):
    model, inputs, method = tiny_model("bert"), inputs_for("bert"), METHODS.get(name)()
    bare, switch = outputs(model, inputs), Switch(model)
    deltas = [tiny.random_delta(method, model, seed) for seed in range(2)]
    seen = []
    for delta in (*deltas, deltas[0]):
        seen.append(switch.to(delta))
        switched = outputs(model, inputs)
        switch.to(None)
        assert torch.equal(outputs(model, inputs), bare)
        attached = delta.attach(model)
        assert torch.equal(outputs(model, inputs), switched)
        attached.detach()
    assert seen[0] is seen[1] is seen[2]


@torch.no_grad()
def test_deltas_of_several_kinds_take_turns(tiny_model, inputs_for, outputs):
    model, inputs = tiny_model("gpt2"), inputs_for("gpt2")
    bare, switch = outputs(model, inputs), Switch(model)
    methods = (LoRA(), Adapter(), Prefix(length=4), LoRA(rank=2), Prefix(length=4, reparameterisation=8))
    deltas = [tiny.random_delta(method, model, seed) for seed, method in enumerate(methods)]
    alone = []
    for delta in deltas:
        attached = delta.attach(model)
        alone.append(outputs(model, inputs))
        attached.detach()
    seen = {}
    for index in (0, 1, 2, 0, 3, 4, 4, 2, 1):
        seen[index] = switch.to(deltas[index])
        assert switch.now is seen[index]
        assert torch.equal(outputs(model, inputs), alone[index])
    # Stored keys and values have been through the network already, so both prefixes are of one kind.
    assert seen[2] is seen[4]
    switch.to(None)
    assert torch.equal(outputs(model, inputs), bare)
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_what_does_not_fit_leaves_the_one_before(tiny_model, inputs_for, outputs):
    model, inputs, switch = tiny_model("bert"), inputs_for("bert"), None
    switch = Switch(model)
    good = tiny.random_delta(LoRA(), model, 0)
    switch.to(good)
    before = outputs(model, inputs)
    few = dict(list(good.tensors.items())[1:])
    for wrong in (Delta(LoRA(), few), Delta(LoRA(rank=2), good.tensors), Delta(Adapter(), good.tensors)):
        with pytest.raises(DeltaError):
            switch.to(wrong)
        assert torch.equal(outputs(model, inputs), before)
    with pytest.raises(DeltaError, match="a str holds no delta"):
        switch.to("good")


@torch.no_grad()
def test_what_was_attached_before_acts_along(tiny_model, inputs_for, outputs):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    first, second = tiny.random_delta(LoRA(), model, 0), tiny.random_delta(Adapter(), model, 1)
    first.attach(model)
    switch = Switch(model)
    switch.to(second)
    both = outputs(model, inputs)
    switch.to(None)
    second.attach(model)
    assert torch.equal(outputs(model, inputs), both)


def test_a_backbone_switches_between_modules_and_is_as_it_was(tiny_backbone, tmp_path):
    import small

    backbone = tiny_backbone("bert")
    rows = [{"input": "text: a warm film", "choices": ["negative", "positive"]}]
    modules = list(small.make_zoo(backbone, "lora", tmp_path))
    kept = backbone.attach(LoRA(rank=2))
    with backbone.switching() as switch:
        assert backbone.delta is None
        found = []
        for module in modules:
            switch.to(module)
            found.append(backbone.choice_logits(rows))
        assert backbone.delta is switch.now
    assert backbone.delta is kept
    for module, logits in zip(modules, found, strict=True):
        with backbone.use(module):  # a stored module, as it stands
            assert torch.equal(backbone.choice_logits(rows), logits)
    backbone.fingerprint = "0" * 64
    with backbone.switching() as switch, pytest.raises(FingerprintError):
        switch.to(modules[0])
    with pytest.raises(FingerprintError):
        backbone.attach(modules[0])
    assert backbone.delta is kept


def test_few_kinds_are_kept_at_hand(tiny_model, monkeypatch):
    monkeypatch.setattr(switching, "MOST_KINDS", 2)
    model = tiny_model("bert")
    switch = Switch(model)
    deltas = [Delta(LoRA(rank=rank), LoRA(rank=rank).draw(model)) for rank in (1, 2, 3)]
    for delta in (*deltas, deltas[0], deltas[2]):
        assert switch.to(delta).state_dict().keys() == delta.tensors.keys()
    assert len(switch._known) == 2
    assert switch.now.method.rank == 3
    assert sum(name.startswith("delta_") for name, _ in model.named_children()) == 1
