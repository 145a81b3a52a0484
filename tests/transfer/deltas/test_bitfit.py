"""BitFit: by hand in double precision, and what it can be put on."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from transfer.deltas import BitFit
from transfer.errors import DeltaError


def layers():
    return {
        "with": nn.Linear(5, 4),
        "without": nn.Linear(5, 4, bias=False),
        "norm": nn.LayerNorm(5),
        "plain_norm": nn.LayerNorm(5, bias=False),
        "rms": LlamaRMSNorm(5),
    }


@torch.no_grad()
@pytest.mark.parametrize("name", layers())
def test_the_output_is_that_of_the_changed_bias(name):
    torch.manual_seed(0)
    model = nn.ModuleDict(layers()).double()
    layer, x = model[name], torch.randn(3, 5, dtype=torch.float64)
    before = layer(x)
    attached = BitFit(where=name).attach(model)
    change = torch.randn(before.shape[-1])
    attached.load_state_dict({f"{name}.bitfit_bias": change})
    assert torch.allclose(layer(x), before + change.double(), atol=1e-12)
    attached.detach()
    assert torch.equal(layer(x), before)


@torch.no_grad()
def test_gpt2_convolutions_take_one_bias_for_query_key_and_value(tiny_model):
    model = tiny_model("gpt2")
    assert BitFit().shapes(model)["transformer.h.0.attn.c_attn.bitfit_bias"] == (96,)


@torch.no_grad()
def test_a_change_is_that_of_the_parameter_it_stands_for(tiny_model, inputs_for, outputs):
    """The bias itself, raised by the same values."""
    model, inputs = tiny_model("bert"), inputs_for("bert")
    place = "encoder.layer.1.intermediate.dense"
    change = torch.randn(64)
    attached = BitFit(where="layer.1.intermediate.dense").attach(model, {f"{place}.bitfit_bias": change})
    expected = outputs(model, inputs)
    attached.detach()
    model.get_submodule(place).bias += change
    assert torch.allclose(outputs(model, inputs), expected, atol=1e-5)


def test_it_stands_on_all_of_a_block_but_its_keys(tiny_model):
    places = {place.removeprefix("encoder.layer.0.") for place in BitFit().places(tiny_model("bert")) if ".0." in place}
    assert places == {
        "attention.self.query",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    }


def test_cross_attention_takes_part_where_there_is_one(tiny_model):
    places = BitFit().places(tiny_model("t5"))
    assert "decoder.block.0.layer.1.EncDecAttention.v" in places
    assert "decoder.block.0.layer.1.layer_norm" in places
    assert "decoder.block.0.layer.1.EncDecAttention.k" not in places
    assert len(BitFit(exclude="decoder").places(tiny_model("t5"))) < len(places) / 2


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Dropout(), "Dropout"),
        (nn.Embedding(3, 4), "Embedding"),
        (nn.BatchNorm1d(4), "BatchNorm1d"),
        (nn.GroupNorm(2, 4), "GroupNorm"),
        (nn.LayerNorm((3, 4)), "LayerNorm"),
        (nn.Sequential(nn.Linear(3, 4)), "Sequential"),
    ],
)
def test_what_cannot_take_a_bias_is_refused_by_name(module, kind):
    with pytest.raises(DeltaError, match=rf"(?s)bitfit cannot be put on 'part'.*{kind}"):
        BitFit(where="part").attach(nn.ModuleDict({"part": module}))


def test_a_model_without_known_parts_wants_names():
    with pytest.raises(DeltaError, match="no attention or feed-forward part"):
        BitFit().attach(nn.ModuleDict({"layer": nn.Linear(3, 4)}))
