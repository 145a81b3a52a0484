from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.deltas import LoRA
from transfer.errors import ConfigError, DeltaError


@torch.no_grad()
def test_the_output_is_that_of_the_changed_weight():
    model = nn.ModuleDict({"layer": nn.Linear(5, 3)})
    x = torch.randn(4, 2, 5)
    attached = LoRA(where="layer", rank=2, alpha=3).attach(model)
    a, b = torch.randn(2, 5), torch.randn(3, 2)
    attached.load_state_dict({"layer.lora_A": a, "layer.lora_B": b})
    expected = nn.functional.linear(x, model["layer"].weight + 3 / 2 * b @ a, model["layer"].bias)
    assert torch.allclose(model["layer"](x), expected, atol=1e-5)
    assert torch.allclose(model["layer"](input=x), expected, atol=1e-5)


@torch.no_grad()
def test_gpt2_convolutions_count_as_linear(tiny_model):
    model = tiny_model("gpt2")
    layer = model.transformer.h[0].attn.c_attn
    x = torch.randn(1, 4, 32)
    expected = layer(x)
    attached = LoRA(rank=2, alpha=4).attach(model)
    place = "transformer.h.0.attn.c_attn"
    a, b = torch.randn(2, 32), torch.randn(96, 2)
    attached.load_state_dict({f"{place}.lora_A": a, f"{place}.lora_B": b}, strict=False)
    assert torch.allclose(layer(x), expected + 2 * x @ a.T @ b.T, atol=1e-4)


@torch.no_grad()
def test_ranks_and_alphas_may_differ_by_place():
    model = nn.ModuleDict({"one": nn.Linear(5, 3), "two": nn.Linear(5, 3)})
    method = LoRA(where=("one", "two"), rank=2, alpha=2, ranks={"two": 4}, alphas={"two": 12})
    assert method.shapes(model)["two.lora_A"] == (4, 5)
    assert (method.scale("one"), method.scale("two")) == (1, 3)
    settings = method.settings(model)
    assert settings["ranks"] == {"two": 4}
    assert LoRA.from_settings(settings).scale("two") == 3
    assert "ranks" not in LoRA().settings()


@torch.no_grad()
def test_ranks_are_named_as_places_are_and_the_closer_name_goes_first(tiny_model):
    model = tiny_model("bert")
    method = LoRA(
        where=("attn.q", "ff.w2"),
        ranks={"attn.q": 3, "attn.q[1]": 5, r"re:layer\.0\.output\.dense": 2},
        alphas={"ff.w2": 4},
    )
    query, w2 = "encoder.layer.{}.attention.self.query", "encoder.layer.{}.output.dense"
    expected = {query.format(0): 3, query.format(1): 5, w2.format(0): 2}
    attached = method.attach(model)
    shapes = {place: attached.state_dict()[f"{place}.lora_A"].shape[0] for place in attached.places}
    assert shapes == {**expected, w2.format(1): 8}
    settings = method.settings(model)
    assert settings["ranks"] == expected
    assert settings["alphas"] == {w2.format(0): 4, w2.format(1): 4}
    assert [site.scale for site in attached.sites] == [16 / 3, 4 / 2, 16 / 5, 4 / 8]
    assert LoRA.from_settings(settings).shapes(model) == method.shapes(model)


def test_a_rank_for_a_place_without_a_delta_is_refused(tiny_model):
    with pytest.raises(DeltaError, match=r"'ff\.w1', where this delta does not go"):
        LoRA(ranks={"ff.w1": 2}).attach(tiny_model("bert"))
    with pytest.raises(DeltaError, match=r"no place named 'attn\.qq'"):
        LoRA(ranks={"attn.qq": 2}).attach(tiny_model("bert"))


def test_dropout_acts_in_training_only():
    model = nn.ModuleDict({"layer": nn.Linear(64, 3)})
    attached = LoRA(where="layer", dropout=0.5).attach(model)
    with torch.no_grad():
        attached.get_parameter("sites.0.lora_B").normal_()
    x = torch.randn(2, 64)
    model.train()
    assert not torch.equal(model["layer"](x), model["layer"](x))
    model.eval()
    assert torch.equal(model["layer"](x), model["layer"](x))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"ranks": {"x": 0}}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="must be"):
        LoRA(**wrong)


def test_unknown_settings_are_refused():
    with pytest.raises(DeltaError, match="no setting named 'rnk'"):
        LoRA.from_settings({"rnk": 3})


def test_the_start_is_drawn_like_that_of_peft(tiny_model):
    start = LoRA().draw(tiny_model("bert"))
    a = start["encoder.layer.0.attention.self.query.lora_A"]
    assert a.abs().max() <= 1 / 32**0.5 + 1e-3
    assert a.std() == pytest.approx(1 / (3 * 32) ** 0.5, rel=0.15)
    assert all((tensor == 0).all() for name, tensor in start.items() if name.endswith("lora_B"))
