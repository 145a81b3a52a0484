"""AdapterHub: modules written in its format, averaged by `average_adapter` in its own environment, and read back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import Environment
from benchmarks.strategies.problem import Made, Problem
from transfer.deltas import Delta
from transfer.exporting import export_as

# It pins an older transformers, so it shares nothing with the environment of this process.
ENVIRONMENT = Environment("adapterhub", ("torch>=2.6,<2.14", "adapters==1.3.0"))


def averaged(problem: Problem, strategy: str = "linear", **options: Any) -> Made:
    """The plain average of all modules.

    Args:
        problem: Its modules are LoRAs or adapters.
        strategy: `combine_strategy`: "linear" is tensor by tensor, "lora_delta_w_svd" of the products.
        options: Further arguments of `average_adapter`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problem.backbone.model.save_pretrained(folder / "backbone")
        for number, module in enumerate(problem.modules):
            export_as(module, folder / "modules" / f"m{number}", "adapterhub")
        told = ENVIRONMENT.run("inside_adapters", name, strategy, json.dumps(options))
        delta = Delta.load(folder / "average", problem.backbone.model)
    about = {"peer_versions": told["versions"], "start_mib": told["start_mib"]}
    return Made(delta, about, seconds=told["seconds"])
