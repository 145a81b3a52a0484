from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from transfer.deltas import Adapter
from transfer.deltas.adapter import ACTIVATIONS
from transfer.errors import ConfigError, DeltaError


class Pair(nn.Linear):
    """A layer whose output is a tuple, as some attentions have it."""

    def forward(self, x):
        return super().forward(x), "more"


@torch.no_grad()
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("kind", [nn.Linear, Pair])
def test_the_output_passes_through_the_bottleneck(activation, kind):
    model = nn.ModuleDict({"layer": kind(5, 4)})
    x = torch.randn(3, 5)
    plain = model["layer"](x)
    hidden = plain[0] if isinstance(plain, tuple) else plain
    attached = Adapter(where="layer", bottleneck=2, activation=activation).attach(model)
    tensors = {name: torch.randn(tensor.shape) for name, tensor in attached.state_dict().items()}
    attached.load_state_dict(tensors)
    narrow = hidden @ tensors["layer.adapter_down.weight"].T + tensors["layer.adapter_down.bias"]
    up = ACTIVATIONS[activation](narrow) @ tensors["layer.adapter_up.weight"].T + tensors["layer.adapter_up.bias"]
    output = model["layer"](x)
    if isinstance(output, tuple):
        assert output[1] == "more"
        output = output[0]
    assert torch.allclose(output, hidden + up, atol=1e-5)


def test_it_stands_after_attention_and_feed_forward(tiny_model):
    assert Adapter().places(tiny_model("llama")) == [
        f"model.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")
    ]


def test_settings_outside_their_range_are_refused():
    with pytest.raises(ConfigError, match="bottleneck must be at least 1"):
        Adapter(bottleneck=0)
    with pytest.raises(ConfigError, match="no activation named 'gelu_old'"):
        Adapter(activation="gelu_old")
    with pytest.raises(ConfigError, match="cannot read 'input'"):
        Adapter(reads="input")


@torch.no_grad()
def test_before_a_norm_it_reads_the_normalised_sum_and_adds_to_the_sum():
    model = nn.ModuleDict({"norm": nn.LayerNorm(4)})
    nn.init.normal_(model["norm"].weight)
    s = torch.randn(3, 4)
    before = model["norm"](s)
    attached = Adapter(where="norm", bottleneck=2, activation="tanh", reads="sum").attach(model)
    assert torch.equal(model["norm"](s), before)  # its start changes nothing
    tensors = {name: torch.randn(tensor.shape) for name, tensor in attached.state_dict().items()}
    attached.load_state_dict(tensors)
    down, up = (tensors[f"norm.adapter_{side}.weight"] for side in ("down", "up"))
    narrow = torch.tanh(before @ down.T + tensors["norm.adapter_down.bias"])
    changed = s + narrow @ up.T + tensors["norm.adapter_up.bias"]
    expected = nn.functional.layer_norm(changed, (4,), model["norm"].weight, model["norm"].bias)
    assert torch.allclose(model["norm"](s), expected, atol=1e-5)
    attached.detach()
    assert torch.equal(model["norm"](s), before)


@pytest.mark.parametrize(("arch", "where"), [("bert", "ff.norm"), ("gpt2", "block")])
def test_on_the_sum_only_it_is_trained_and_it_is_copied_and_pickled_with_the_model(arch, where, tiny_model):
    model, ids = tiny_model(arch), torch.tensor([[5, 9, 7, 30]])
    method = Adapter(bottleneck=3, reads="sum", where=(where,))
    shapes = method.shapes(model)
    method.attach(model, {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()})
    expected = model(input_ids=ids)[0]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(input_ids=ids)[0], expected)
    expected.square().sum().backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert len(grads) == len(shapes)
    assert all("adapter_" in name and bool(grad.abs().sum() > 0) for name, grad in grads.items())
    states = model.to(torch.bfloat16)(input_ids=ids)[0]
    assert states.dtype == torch.bfloat16


def test_on_a_block_it_is_as_wide_as_what_the_block_gives(tiny_model):
    method = Adapter(bottleneck=3, reads="sum", where=("block[1]",))
    assert method.shapes(tiny_model("gpt2"))["transformer.h.1.adapter_down.weight"] == (3, 32)
    assert method.settings()["reads"] == "sum"
    assert "reads" not in Adapter().settings()
    assert Adapter.from_settings(method.settings()) == method


@pytest.mark.parametrize("where", ["c_attn", "drop"])
def test_what_gives_no_sum_is_refused(where, tiny_model):
    with pytest.raises(DeltaError, match=r"(?s)cannot read the sum at.*no normalisation and no block"):
        Adapter(reads="sum", where=(where,)).shapes(tiny_model("gpt2"))
