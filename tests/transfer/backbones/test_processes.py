"""Backbones with deltas in processes of their own: pickled by multiprocessing, trained together under Accelerate."""

from __future__ import annotations

import socket

import pytest
import tiny
import torch
from in_processes import ROWS_OF_MODULES, STEPS, serve_rows, train_together

from transfer.deltas import LoRA, Mixed

CASES = {"lora": "bert", "adapter": "t5", "prefix": "gpt2"}  # method -> architecture
ROWS = tiny.sentiment_rows(4)


def backbone_with(method):
    backbone = tiny.tiny_backbone(CASES[method])
    backbone.attach(tiny.random_delta(method, backbone.model))
    return backbone


def spawn(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()  # one whose partner has failed would wait for it
    assert codes == [0] * len(processes)


@pytest.mark.slow
def test_two_gloo_processes_train_as_one_does_on_all_rows(tmp_path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    cases = {method: backbone_with(method) for method in CASES}
    context = torch.multiprocessing.get_context("spawn")
    common = (port, cases, ROWS, tmp_path, context.Barrier(2))
    spawn([context.Process(target=train_together, args=(rank, 2, *common)) for rank in range(2)])
    for method, backbone in cases.items():
        before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        scores = backbone.choice_logits(ROWS)
        optimizer = torch.optim.SGD(backbone.delta.parameters(), lr=0.05)
        batch = backbone.collate(backbone.encode(ROWS), train=True)
        for _ in range(STEPS):
            backbone(**batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        for rank in range(2):
            theirs = torch.load(tmp_path / f"{method}-{rank}.pt")
            assert torch.allclose(theirs["scores"], scores, atol=1e-5), method
            for name, tensor in backbone.state_dict().items():
                assert torch.allclose(theirs["tensors"][name], tensor, atol=1e-4), (method, name)
        assert max(float((tensor - before[name]).abs().max()) for name, tensor in backbone.state_dict().items()) > 1e-3


@pytest.mark.slow
def test_a_mixed_batch_is_answered_in_another_process(tmp_path):
    backbone = tiny.tiny_backbone("bert")
    deltas = [tiny.random_delta(method, backbone.model, seed) for seed, method in enumerate((LoRA(), "prefix"))]
    Mixed(backbone, deltas).attach()
    context = torch.multiprocessing.get_context("spawn")
    spawn([context.Process(target=serve_rows, args=(backbone, ROWS, tmp_path))])
    theirs = torch.load(tmp_path / "mixed.pt")
    modules = [-1 if number is None else number for number in ROWS_OF_MODULES]
    assert torch.allclose(theirs, backbone.outputs(ROWS, modules=modules)[0], atol=1e-6)
