"""What processes of their own do in tests: they are handed pickled backbones and write down what comes out."""

from __future__ import annotations

import copy
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

ROWS_OF_MODULES = [0, None, 1, 0]
STEPS = 3


def train_together(
    rank: int, n_processes: int, port: int, cases: dict[str, Any], rows: Any, folder: Path, all_done: Barrier
) -> None:
    """Be one of several gloo processes under Accelerate: score, then train each backbone's delta on a share of rows.

    Writes `folder/<case>-<rank>.pt`: the scores before, and the delta's tensors afterwards. Ends without Python's own
    clearing up, in which gloo's threads can wait for a partner that has gone.
    """
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(n_processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    from accelerate import Accelerator

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert torch.distributed.get_backend() == "gloo"
    assert accelerator.num_processes == n_processes
    for name, shared in cases.items():
        backbone = copy.deepcopy(shared)  # torch hands tensors over in shared memory; each process trains its own
        scores = backbone.choice_logits(rows)
        optimizer = torch.optim.SGD(backbone.delta.parameters(), lr=0.05)
        wrapped, optimizer = accelerator.prepare(backbone, optimizer)
        assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
        wrapped.train()
        batch = backbone.collate(backbone.encode(rows)[rank::n_processes], train=True)
        for _ in range(STEPS):
            accelerator.backward(wrapped(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        torch.save({"scores": scores, "tensors": backbone.state_dict()}, folder / f"{name}-{rank}.pt")
    all_done.wait(120)  # nobody leaves while another still talks to it
    os._exit(0)


def serve_rows(backbone: Any, rows: Any, folder: Path) -> None:
    """Answer rows with a backbone that came with its mixed deltas on; writes `folder/mixed.pt`."""
    torch.set_num_threads(1)
    modules = [-1 if number is None else number for number in ROWS_OF_MODULES]
    torch.save(backbone.outputs(rows, modules=modules)[0], folder / "mixed.pt")
