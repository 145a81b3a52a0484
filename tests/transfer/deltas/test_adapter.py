from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.deltas import Adapter
from transfer.deltas.adapter import ACTIVATIONS
from transfer.errors import ConfigError


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
