"""SoRA: what it computes, how its gates shrink, and what is left after pruning."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from transfer.deltas import Delta, LoRA, SoRA, prune, ranks_of
from transfer.deltas.sora import published_threshold, soft_threshold
from transfer.errors import ConfigError, DeltaError


@torch.no_grad()
def test_the_output_is_that_of_the_gated_weight():
    model = nn.ModuleDict({"layer": nn.Linear(5, 3)})
    x = torch.randn(4, 2, 5)
    attached = SoRA(where="layer", rank=2, alpha=3).attach(model)
    a, b, g = torch.randn(2, 5), torch.randn(3, 2), torch.tensor([0.5, -2.0])
    attached.load_state_dict({"layer.lora_A": a, "layer.lora_B": b, "layer.lora_gate": g})
    expected = nn.functional.linear(x, model["layer"].weight + 3 / 2 * b @ torch.diag(g) @ a, model["layer"].bias)
    assert torch.allclose(model["layer"](x), expected, atol=1e-5)


def test_the_start_is_that_of_the_paper(tiny_model):
    start = SoRA().draw(tiny_model("bert"))
    gates = torch.cat([tensor for name, tensor in start.items() if name.endswith("lora_gate")])
    assert gates.shape == (2 * 6 * 8,)
    assert float(gates.mean()) == pytest.approx(0, abs=0.3)
    assert float(gates.std()) == pytest.approx(1, abs=0.2)
    assert all((tensor == 0).all() for name, tensor in start.items() if name.endswith("lora_B"))


@torch.no_grad()
def test_soft_threshold_is_the_proximal_point():
    # argmin_p 0.5 (p - g)^2 + xi |p|, looked for on a fine grid
    xi, grid = 0.3, torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    for g in (-2.0, -0.31, -0.3, -0.1, 0.0, 0.29, 0.5, 1.7):
        best = grid[(0.5 * (grid - g) ** 2 + xi * grid.abs()).argmin()]
        assert float(soft_threshold(torch.tensor(g, dtype=torch.float64), xi)) == pytest.approx(float(best), abs=1e-4)


@torch.no_grad()
def test_published_threshold_does_what_three_lines_in_order_do():
    gates, xi = torch.randn(2000, dtype=torch.float64) * 2, 0.4
    expected = gates.clone()
    expected[expected > xi] -= xi
    expected[expected < -xi] += xi
    expected[expected.abs() < xi] = 0
    assert torch.equal(published_threshold(gates, xi), expected)
    between = (gates.abs() > xi) & (gates.abs() < 2 * xi)  # the paper's operator keeps these
    assert (published_threshold(gates, xi)[between] == 0).all()
    assert (soft_threshold(gates, xi)[between] != 0).all()


@pytest.mark.parametrize(
    "wrong", [{"xi": -1e-4}, {"xi": float("inf")}, {"threshold": "hard"}, {"gate_learning_rate": 0}, {"penalty": -1}]
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="must be"):
        SoRA(**wrong)


def gated(arch: str, dtype: torch.dtype) -> tuple[nn.Module, object]:
    """A model with a SoRA of random tensors whose gates are half zero, and all zero at the first place."""
    model = tiny.tiny_model(arch).to(dtype)
    attached = SoRA(rank=4, ranks={"ff.w2": 6}, alphas={"attn.q": 5}).attach(model).to(dtype)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, tensor in attached.state_dict().items():
        tensors[name] = torch.randn(tensor.shape, generator=generator, dtype=dtype) * 0.2
        if name.endswith("gate"):
            tensors[name] *= torch.rand(tensor.shape, generator=generator) < 0.5
            if name.startswith(attached.places[0]):
                tensors[name].zero_()
    attached.load_state_dict(tensors)
    return model, attached


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2", "llama"])
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 0, 1e-6), (torch.float32, 1e-5, 2e-6)])
@torch.no_grad()
def test_the_pruned_lora_answers_as_the_sora_did(arch, dtype, rtol, atol, inputs_for, outputs):
    model, attached = gated(arch, dtype)
    expected = outputs(model, inputs_for(arch))
    pruned, before = prune(attached), ranks_of(attached)
    attached.detach()
    bare = outputs(model, inputs_for(arch))
    lora = pruned.attach(model).to(dtype)
    lora.load_state_dict(pruned.tensors)  # attaching goes through fp32
    assert torch.allclose(outputs(model, inputs_for(arch)), expected, rtol=rtol, atol=atol)
    assert not torch.allclose(bare, expected, atol=1e-3)
    kept = {place: rank for place, rank in before.kept.items() if rank}
    assert type(pruned.method) is LoRA
    assert ranks_of(pruned).kept == kept
    assert len(kept) < len(before.places)
    assert pruned.n_parameters == before.parameters < before.start_parameters


@torch.no_grad()
def test_the_pruned_lora_is_loaded_by_peft(tmp_path, inputs_for, outputs):
    from peft import PeftModel

    from zoo import Card, Module
    from zoo.writing import save_module

    model, attached = gated("bert", torch.float32)
    expected = outputs(model, inputs_for("bert"))
    pruned = prune(attached)
    card = Card(
        task="toy", method="lora", settings=pruned.settings, backbone="tiny", fingerprint="a" * 64, category="toy"
    )
    save_module(Module.new(card, pruned.tensors), tmp_path / "pruned")
    theirs = PeftModel.from_pretrained(tiny.tiny_model("bert"), str(tmp_path / "pruned")).eval()
    found = outputs(theirs, inputs_for("bert"))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    config = theirs.peft_config["default"]
    assert set(config.rank_pattern.values()) - {4}
    assert attached.places[0] not in config.target_modules
    ours = Delta.from_module(Module.load(tmp_path / "pruned"))
    assert ranks_of(ours).kept == ranks_of(pruned).kept


def test_the_pruned_lora_trains_the_same_part_of_a_fused_layer(tiny_model):
    model = tiny_model("gpt2")
    attached = SoRA(where=("attn.q",), rank=3).attach(model)
    width = model.config.n_embd
    for delta in (prune(attached), prune(Delta.from_attached(attached))):
        attached.detach()
        lora = delta.attach(model)
        model(torch.randint(5, 60, (2, 7))).logits.square().mean().backward()
        for site in lora.sites:
            rows = site.lora_B.grad.any(dim=1)
            assert rows[:width].any()
            assert not rows[width:].any()
        lora.detach()


def test_pruning_refuses_what_has_no_gates_and_what_would_be_empty(tiny_model):
    with pytest.raises(DeltaError, match="no gates"):
        prune(LoRA().attach(tiny_model("bert")))
    attached = SoRA(rank=2).attach(tiny_model("bert"))
    attached.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in attached.state_dict().items()})
    with pytest.raises(DeltaError, match="every gate is zero"):
        prune(attached)


def test_ranks_are_counted_by_layer_and_part(tiny_model):
    attached = SoRA(where=("attn.q", "ff.w2"), rank=3).attach(tiny_model("bert"))
    start = attached.state_dict()
    start["encoder.layer.1.output.dense.lora_gate"][:2] = 0
    ranks = ranks_of(attached)
    assert ranks.by_block == {0: 6, 1: 4}
    parts, blocks, grid = ranks.grid()
    assert (parts, blocks) == (["attention.self.query", "output.dense"], ["0", "1"])
    assert grid.tolist() == [[3, 3], [3, 1]]
    # query: 32 + 32 a rank, the second feed-forward layer 64 + 32
    assert ranks.parameters == 6 * 64 + 4 * 96
    assert ranks.share == pytest.approx((6 * 64 + 4 * 96) / (6 * 64 + 6 * 96))
    assert ranks.to_json()["ranks_by_block"] == {"0": 6, "1": 4}
    assert ranks_of(LoRA(rank=5).attach(tiny_model("bert"))).share == 1


def test_a_pruned_sora_still_says_which_places_are_embeddings(tiny_model):
    model, method = tiny_model("bert"), SoRA(where=("embeddings", "attn.q"), rank=4)
    tensors = tiny.random_delta(method, model, 1).tensors
    settings = method.settings(model)
    pruned = prune(Delta(method, tensors, settings))
    assert pruned.settings["embeddings"] == settings["embeddings"]
    assert set(pruned.settings["embeddings"]) <= set(pruned.settings["places"])


@torch.no_grad()
def test_ranks_by_common_names_are_pruned_once_a_model_has_said_their_places(inputs_for, outputs, tiny_model):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    delta = tiny.random_delta(SoRA(rank=4, ranks={"attn.q": 2}, alphas={"attn.v": 32.0}), model, 1)
    with pytest.raises(DeltaError, match=r"by a name, 'attn\.q'"):
        prune(delta)
    attached = delta.attach(model)
    expected, pruned = outputs(model, inputs), prune(attached)
    attached.detach()
    pruned.attach(model)
    torch.testing.assert_close(outputs(model, inputs), expected, rtol=1e-4, atol=1e-5)
