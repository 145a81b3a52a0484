"""The bottleneck methods against formulas worked out by other means."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from transfer.deltas import Adapter, Compacter, LowRankAdapter, ParallelAdapter
from transfer.errors import ConfigError, DeltaError


def random_tensors(attached):
    tensors = {name: torch.randn(tensor.shape) for name, tensor in attached.state_dict().items()}
    attached.load_state_dict(tensors)
    return tensors


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_adapter_is_an_adapter_of_the_products(rank):
    model, x = nn.ModuleDict({"layer": nn.Linear(5, 8)}), torch.randn(3, 5)
    hidden = model["layer"](x)
    t = random_tensors(LowRankAdapter(where="layer", reduction=2, rank=rank, activation="tanh").attach(model))
    down = t["layer.low_rank_down.left"] @ t["layer.low_rank_down.right"]
    up = t["layer.low_rank_up.left"] @ t["layer.low_rank_up.right"]
    assert down.shape == (4, 8)
    assert torch.linalg.matrix_rank(down) == rank
    narrow = torch.tanh(hidden @ down.T + t["layer.low_rank_down.bias"])
    assert torch.allclose(model["layer"](x), hidden + narrow @ up.T + t["layer.low_rank_up.bias"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_compacter_is_an_adapter_of_sums_of_kronecker_products(shared, rank):
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 12)), torch.randn(3, 6)
    method = Compacter(where=("0", "1"), reduction=2, division=2, rank=rank, shared_rule=shared, activation="relu")
    layers = [copy.deepcopy(layer) for layer in model]
    t = random_tensors(method.attach(model))
    assert ("1.compacter_rule" in t) is not shared

    def weight(place, part):
        rule = t["0.compacter_rule" if shared else f"{place}.compacter_rule"]
        left, right = t[f"{place}.compacter_{part}.left"], t[f"{place}.compacter_{part}.right"]
        return sum(torch.kron(rule[i], left[i] @ right[i]) for i in range(2))

    expected = x
    for place, layer in zip("01", layers, strict=True):
        hidden = layer(expected)
        narrow = torch.relu(hidden @ weight(place, "down") + t[f"{place}.compacter_down.bias"])
        expected = hidden + narrow @ weight(place, "up") + t[f"{place}.compacter_up.bias"]
    assert torch.allclose(model(x), expected, rtol=1e-4, atol=1e-3)


def test_a_shared_rule_stays_one_tensor_in_copies_and_in_training(tiny_model):
    model = tiny_model("bert")
    attached = Compacter().attach(model)
    for other in (attached, copy.deepcopy(model).delta_0, pickle.loads(pickle.dumps(model)).delta_0):
        rules = {id(site.compacter_rule) for site in other.sites}
        assert len(rules) == 1
        assert sum(p.numel() for p in other.parameters()) == other.n_parameters
    random_tensors(attached)
    model(torch.tensor([[5, 6, 7]])).last_hidden_state.square().sum().backward()
    assert all(site.compacter_rule.grad is attached.sites[0].compacter_rule.grad for site in attached.sites)


def test_a_width_that_cannot_be_divided_is_named():
    with pytest.raises(DeltaError, match="no multiple of 4") as caught:
        Compacter(where="layer").attach(nn.ModuleDict({"layer": nn.Linear(4, 6)}))
    assert "Compacter(division=3)" in str(caught.value)


@torch.no_grad()
def test_a_parallel_adapter_reads_the_input_and_adds_to_the_output(tiny_model):
    model = tiny_model("bert")
    layer = model.encoder.layer[0]
    x = torch.randn(2, 5, 64)
    read = torch.randn(2, 5, 32)
    plain = layer.output.dense(x)
    attached = ParallelAdapter(where="ff.w2", inputs="ff.w1", scale=0.5, activation="relu").attach(model)
    t = random_tensors(attached)
    layer.intermediate.dense(read)
    place = "encoder.layer.0.output.dense"
    narrow = functional.relu(read @ t[f"{place}.adapter_down.weight"].T + t[f"{place}.adapter_down.bias"])
    up = narrow @ t[f"{place}.adapter_up.weight"].T + t[f"{place}.adapter_up.bias"]
    assert torch.allclose(layer.output.dense(x), plain + 0.5 * up, atol=1e-4)
    with pytest.raises(DeltaError, match="has no input"):
        layer.output.dense(x)


def test_every_output_has_the_input_of_its_own_block(tiny_model):
    assert ParallelAdapter().sources(tiny_model("llama")) == {
        f"model.layers.{layer}.{output}": f"model.layers.{layer}.{source}"
        for layer in (0, 1)
        for output, source in (("self_attn.o_proj", "self_attn"), ("mlp.down_proj", "mlp.gate_proj"))
    }
    with pytest.raises(DeltaError, match="no input for the parallel adapter at"):
        ParallelAdapter(where="ff.w2", inputs="ff.w1[0]").attach(tiny_model("bert"))


def test_named_places(tiny_model):
    model = tiny_model("bert")
    for method in (Adapter, LowRankAdapter, Compacter):
        assert method(where="houlsby") == method()
        assert method(where="pfeiffer").places(model) == [f"encoder.layer.{i}.output.dense" for i in (0, 1)]
        assert method(where="pfeiffer").settings()["where"] == ["ff.w2"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRankAdapter(rank=0),
        lambda: LowRankAdapter(reduction=0),
        lambda: Compacter(division=0),
        lambda: Compacter(activation="none"),
        lambda: ParallelAdapter(scale=float("nan")),
        lambda: ParallelAdapter(where="ff.w2"),
        lambda: ParallelAdapter(at=("a",), input_places=("b", "c")),
    ],
)
def test_settings_outside_their_range_are_refused(make):
    with pytest.raises(ConfigError):
        make()
