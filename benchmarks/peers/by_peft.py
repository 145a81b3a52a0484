"""PEFT: the modules loaded into its model as they stand, merged by `add_weighted_adapter`, saved, and read back."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.environments import PeerError
from benchmarks.strategies.problem import Made, Problem
from transfer.deltas import Delta
from transfer.ensembling import weigh
from transfer.similarity.scoring import DEFAULT
from zoo import Module

DENSITY = 0.2  # of ties and dare_ties, as in PEFT's guide to merging; our own default too


def share(n: int) -> float:
    """1 / n: the weights sum to 1."""
    return 1 / n


def mean_of_both(n: int) -> float:
    """1 / n^2: `linear` takes the root of a weight for A and for B, so this makes both of them plain averages."""
    return 1 / n**2


def whole(n: int) -> float:
    """1: where signs are elected PEFT takes means itself; its guide to merging begins with 1 for `ties`."""
    return 1.0


def combined(
    problem: Problem,
    how: str,
    estimator: str | None = None,
    each: Callable[[int], float] = share,
    **options: Any,
) -> Made:
    """A start by one of PEFT's combination types.

    Args:
        problem: Its modules are merged, its backbone is left as it was found.
        how: `combination_type`.
        estimator: Whose softmax weights are used; None gives every module the same.
        each: That weight, of the number of modules.
        options: Further arguments of `add_weighted_adapter`.
    """
    modules = problem.modules
    same = each(len(modules))
    weights = {m.id: same for m in modules} if estimator is None else weigh(problem.scores(estimator))
    importlib.import_module("peft")  # before the clock
    begun = time.perf_counter()
    delta = combine(problem.backbone.model, modules, weights, how, problem.seed, options)
    return Made(delta, {"peer_versions": {"peft": version("peft")}}, time.perf_counter() - begun)


def first_order(problem: Problem, how: str) -> Made:
    """With the weights that `transfer init` uses by default, so that only the merge differs."""
    return combined(problem, how, DEFAULT)


def combine(
    model: Any,
    modules: Sequence[Module],
    weights: Mapping[str, float],
    how: str,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Delta:
    """What PEFT makes of stored modules.

    Args:
        model: The backbone's inner model, which gets its own layers back.
        modules: Stored as PEFT's checkpoints.
        weights: By module id.
        how, options: For `add_weighted_adapter`.
        seed: Of random drops.
    Raises:
        PeerError: a module lies in no folder.
    """
    import peft

    if any(module.folder is None for module in modules):
        raise PeerError("PEFT reads modules from their folders, and some are in memory alone")
    names = [f"m{number}" for number in range(len(modules))]
    held = peft.PeftModel.from_pretrained(model, modules[0].folder, adapter_name=names[0])
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, module in zip(names[1:], modules[1:], strict=True):
                held.load_adapter(module.folder, adapter_name=name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                held.add_weighted_adapter(
                    names, [weights[m.id] for m in modules], "merged", combination_type=how, **(options or {})
                )
            held.save_pretrained(folder, selected_adapters=["merged"], save_embedding_layers=False)
        finally:
            held.unload()
        return Delta.load(Path(folder) / "merged", model)
