"""Under `torch.compile`: whole graphs with equal outputs, and no new graph for other tensors or other rows."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from transfer.deltas import LoRA, Mixed, Prefix, Switch


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["lora", "prefix", "soft-prompt"])  # the others are in the mixed batch below
@torch.no_grad()
def test_a_compiled_model_follows_its_deltas_without_compiling_anew(name, tiny_model, inputs_for, outputs):
    model, inputs, counter = tiny_model("bert"), inputs_for("bert"), CompileCounterWithBackend("aot_eager")
    bare, deltas, switch = (
        outputs(model, inputs),
        [tiny.random_delta(name, model, seed) for seed in (0, 1)],
        Switch(model),
    )
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    graphs = []
    for delta in (*deltas, deltas[0]):
        switch.to(delta)
        eager = outputs(model, inputs)
        assert not torch.allclose(eager, bare, atol=1e-3)
        assert torch.allclose(outputs(compiled, inputs), eager, atol=1e-6)
        graphs.append(counter.frame_count)
    assert graphs[0] == graphs[-1] > 0
    switch.to(None)
    assert torch.allclose(outputs(compiled, inputs), bare, atol=1e-6)
    switch.to(deltas[1])
    assert torch.allclose(outputs(compiled, inputs), outputs(model, inputs), atol=1e-6)


@torch.no_grad()
def test_a_mixed_batch_is_one_graph_whatever_its_rows_use(tiny_model, inputs_for, outputs):
    model, inputs, counter = tiny_model("gpt2"), inputs_for("gpt2"), CompileCounterWithBackend("aot_eager")
    inputs["use_cache"] = False
    names = ("lora", "adapter", "prefix", "bitfit", LoRA(rank=3), Prefix(length=5))
    mixed = Mixed(model, [tiny.random_delta(name, model, seed) for seed, name in enumerate(names)]).attach()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for rows in ([0, 1, 2], [None, 3, 5], [4, 4, None], [None, None, None]):
        with mixed.rows(rows):
            assert torch.allclose(outputs(compiled, inputs), outputs(model, inputs), atol=1e-6)
    assert counter.frame_count == 1


def test_gradients_of_a_compiled_model_are_those_of_the_plain_one(tiny_model, inputs_for, outputs):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    attached = tiny.random_delta("lora", model, 0).attach(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (model, compiled):
        outputs(run, inputs).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in attached.parameters()])
        attached.zero_grad()
    for plain, other in zip(*gradients, strict=True):
        assert torch.allclose(plain, other, atol=1e-6)
