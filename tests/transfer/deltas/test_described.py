from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from transfer.deltas import Adapter, LoRA, describe, structure
from transfer.deltas.addressing import find_places
from transfer.errors import ConfigError, DeltaError


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.wide, self.narrow = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(x)
        return x + self.narrow(torch.tanh(self.wide(x)))


class Mixer(nn.Module):
    """No attention anywhere: the rules find nothing here."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Layer() for _ in range(depth))
        self.out = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return self.out(x)


@pytest.fixture
def kind():
    """A class of its own for each test, since a description stays on a class."""
    return type("Kind", (Mixer,), {})


DESCRIPTION = {"attn.proj": "parts.*.mix", "ff.w1": "parts.*.wide", "ff.w2": "parts.*.narrow", "head": "out"}


def test_one_call_describes_a_class_and_all_its_models(kind):
    assert structure(kind()) == {}
    describe(kind, DESCRIPTION)
    assert structure(kind(2)) == {
        "block": ["parts.0", "parts.1"],
        "attn.proj": ["parts.0.mix", "parts.1.mix"],
        "ff.w1": ["parts.0.wide", "parts.1.wide"],
        "ff.w2": ["parts.0.narrow", "parts.1.narrow"],
        "head": ["out"],
    }
    assert structure(Mixer()) == {}


def test_a_described_model_is_addressed_like_any_other(kind):
    describe(kind, DESCRIPTION)
    model = nn.Sequential(nn.Identity(), kind())  # inside another model
    assert find_places(model, ("ff.w2[1:]",)) == ["1.parts.1.narrow", "1.parts.2.narrow"]
    assert find_places(model, ("block.0.ff.w1", "head")) == ["1.parts.0.wide", "1.out"]
    assert find_places(model, ("ff.w1", "ff.w2"), ("block[:2]",)) == ["1.parts.2.wide", "1.parts.2.narrow"]
    x = torch.randn(4, 6)
    before = model(x)
    attached = Adapter(bottleneck=2).attach(model)
    assert attached.places == [f"1.parts.{i}.{name}" for i in range(3) for name in ("mix", "narrow")]
    for tensor in attached.parameters():
        nn.init.normal_(tensor)
    assert not torch.allclose(model(x), before)
    attached.detach()
    assert torch.equal(model(x), before)


def test_one_model_can_be_described_and_copied(kind):
    model = kind(2)
    describe(model, {"attn.q": "parts.*.mix"})
    assert structure(kind(2)) == {}
    for other in (model, copy.deepcopy(model)):
        assert structure(other)["attn.q"] == ["parts.0.mix", "parts.1.mix"]
        assert LoRA(where="attn.q").places(other) == ["parts.0.mix", "parts.1.mix"]


def test_a_described_model_pickles():
    model = Mixer(2)
    describe(model, {"attn.q": "parts.*.mix"})
    assert structure(pickle.loads(pickle.dumps(model))) == structure(model)


def test_stacks_and_numbers_can_be_given(kind):
    model = kind(3)
    describe(model, {"encoder.block.*.ff.w2": "parts.*.narrow", "decoder.block.0.ff.w2": "out"})
    assert find_places(model, ("encoder.block.2.ff.w2", "decoder.ff.w2[0]")) == ["parts.2.narrow", "out"]


def test_blocks_without_numbers_are_counted():
    model = nn.ModuleDict({name: Layer() for name in ("low", "middle", "high")})
    describe(model, {"ff.w2": "*.narrow"})
    assert find_places(model, ("ff.w2[-1]", "block.0.ff.w2")) == ["low.narrow", "high.narrow"]


def test_a_description_goes_before_the_rules_and_adds_to_itself(tiny_model):
    model = tiny_model("bert")
    rules = structure(model)
    describe(model, {"attn.q": "encoder.layer.*.attention.self.key", "ff.w1": ()})
    describe(model, {"head": "pooler.dense"})
    expected = {**rules, "attn.q": rules["attn.k"], "head": ["pooler.dense"]}
    del expected["ff.w1"], expected["attn.k"]  # a place that is given a name loses the one it had
    assert structure(model) == expected


def test_a_class_inside_blocks_that_the_rules_know_is_in_those_blocks(tiny_model):
    model = tiny_model("bert")
    for layer in model.encoder.layer:
        describe(layer.attention, {"gate": "output.dense"})
    assert find_places(model, ("encoder.block.1.gate",)) == ["encoder.layer.1.attention.output.dense"]
    assert "attn.proj" not in structure(model)


@pytest.mark.parametrize("names", [{"": "out"}, {"attn.q": ""}, {"attn.*": "out"}, {"attn.q": (3,)}])
def test_what_is_no_description_is_refused(names, kind):
    with pytest.raises(ConfigError, match="is no common name with the name of a module"):
        describe(kind, names)


def test_a_name_that_is_not_there_is_refused(kind):
    with pytest.raises(DeltaError, match=r"names 'parts\.\*\.mixx' as 'attn\.q'.*\n.*closest: .*parts\.0\.mix"):
        describe(kind(), {"attn.q": "parts.*.mixx"})
    describe(kind, {"attn.q": "layers.*.mix"})  # a class alone cannot tell
    with pytest.raises(DeltaError, match=r"the description of Kind names 'layers\.\*\.mix'"):
        LoRA().attach(kind())
