"""Starts that other libraries make of our modules, by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import TORCH, environment, our_requirements, run_elsewhere, same_python
from benchmarks.strategies.problem import Made, Problem
from benchmarks.strategies.starts import DEFAULT, Recipe
from transfer.backbones.loading import embedded_folder
from transfer.deltas import Delta
from transfer.ensembling import weigh
from transfer.errors import ConfigError
from transfer.importing import import_checkpoint
from zoo import Module
from zoo.formats import adapterhub

ADAPTERS = "adapters==1.3.0"
LORAHUB = "lorahub==0.1.0"
LORAHUB_MODULES = 20  # that its paper draws at random
LORAHUB_STEPS = 40
DENSITY = 0.2  # of ties and dare, as in the examples of PEFT's documentation


def uniform_weights(problem: Problem) -> dict[str, float]:
    """The same for every module."""
    return {module.id: 1 / len(problem.modules) for module in problem.modules}


def default_weights(problem: Problem) -> dict[str, float]:
    """Those of our default estimator."""
    return weigh(problem.scores(DEFAULT))


def folder_of(module: Module) -> Path:
    """Where a stored module lies."""
    if module.folder is None:
        raise ConfigError(f"module {module.id!r} is in memory, peers read folders")
    return module.folder


def with_peft(combination: str, weights: Callable[[Problem], Mapping[str, float]], **options: Any) -> Recipe:
    """`add_weighted_adapter` of PEFT, in a process of its own; its memory and seconds go into the row."""

    def make(problem: Problem) -> Made:
        chosen = weights(problem)
        asked = {
            "model": str(embedded_folder()),
            "modules": {module.id: str(folder_of(module)) for module in problem.modules},
            "weights": dict(chosen),
            "combination": combination,
            "options": options,
        }
        return _answered(problem, same_python(), "with_peft.py", asked)

    return Recipe(make, DEFAULT if weights is default_weights else None)


def with_adapterhub(problem: Problem) -> Made:
    """`average_adapter` of AdapterHub's `adapters`, of modules in its own format."""
    python = environment("adapters", [TORCH, ADAPTERS])
    with tempfile.TemporaryDirectory(prefix="peers-") as place:
        folders = {}
        for module in problem.modules:
            folders[module.id] = str(Path(place) / module.id)
            Path(folders[module.id]).mkdir()
            card = module.card
            adapterhub.write(Path(folders[module.id]), card.method, card.settings, module.tensors(), card.backbone)
        asked = {"model": str(embedded_folder()), "modules": folders, "weights": uniform_weights(problem)}
        return _answered(problem, python, "with_adapters.py", asked)


def with_lorahub(problem: Problem) -> Made:
    """LoraHub's own search, of modules that it draws at random, on the target's training examples."""
    python = environment("lorahub", [TORCH, LORAHUB, *our_requirements()])
    order = np.random.default_rng(problem.seed).permutation(len(problem.modules))[:LORAHUB_MODULES]
    asked = {
        "target": problem.task.name,
        "examples": problem.examples,
        "seed": problem.seed,
        "steps": LORAHUB_STEPS,
        "modules": [str(folder_of(problem.modules[place])) for place in sorted(order)],
    }
    return _answered(problem, python, "with_lorahub.py", asked)


def _answered(problem: Problem, python: Path, script: str, asked: dict[str, Any]) -> Made:
    """The checkpoint that a script leaves, as a start; what it measured goes into the row."""
    with tempfile.TemporaryDirectory(prefix="peers-") as place:
        found = run_elsewhere(python, script, {**asked, "out": place})
        module = import_checkpoint(Path(found.pop("folder")), problem.backbone, task="merged").module
        delta = Delta.from_module(module)
        tensors = {name: tensor.float().clone() for name, tensor in delta.tensors.items()}
    about = {f"peer_{name}": value for name, value in found.items()}
    seconds = found["seconds_load"] + found["seconds_merge"]  # without its imports, and without making its environment
    return Made(Delta(delta.method, tensors, delta.settings), about, seconds)


PEERS: dict[str, Recipe] = {
    "peft:linear": with_peft("linear", uniform_weights),
    "peft:svd": with_peft("svd", uniform_weights, svd_rank=8),
    "peft:ties": with_peft("ties", uniform_weights, density=DENSITY),
    "peft:dare_ties": with_peft("dare_ties", uniform_weights, density=DENSITY),
    "peft:linear, our weights": with_peft("linear", default_weights),
    "peft:svd, our weights": with_peft("svd", default_weights, svd_rank=8),
    "adapterhub:average": Recipe(with_adapterhub),
    "lorahub": Recipe(with_lorahub),
}
