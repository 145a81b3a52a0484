"""LoraHub by its own package: 20 modules drawn at random, their weights searched by nevergrad.

Source: Huang et al. 2024, arxiv.org/abs/2307.13269; `lorahub` 0.1.0, whose `lorahub_learning` is called as it stands.
It minimises the loss plus 0.05 times the mean |weight| over weights within +-1.5, beginning at 0, in 40 evaluations of
nevergrad's NGOpt, and takes the raw sums of A and of B at the weights that it recommends.

Two of its functions are for T5 and for texts to generate; in their place stand the loading of our backbone and our
examples. The loss is an argument of its: here the mean loss of the training examples. (The package's own for T5 is
the mean loss of a batch, divided by the number of examples once more.)
"""

from __future__ import annotations

import copy
import io
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.peers.environments import Environment, PeerError
from benchmarks.strategies.problem import Made, Problem
from transfer.ensembling import merge
from transfer.training.measuring import measure
from zoo import Module

# Beside what is installed here, since the loss is that of a backbone here.
ENVIRONMENT = Environment("lorahub", ("lorahub==0.1.0", "nevergrad==1.0.12"), shared=True)
MOST, EVALUATIONS, BOUND = 20, 40, 1.5


def composed(problem: Problem) -> Made:
    """The start that LoraHub makes."""
    drawn = draw(problem.modules, problem.seed)
    algorithm = package()
    begun = time.perf_counter()  # after the package and its environment are there
    weights, about = learn(algorithm, problem, drawn)
    versions = {name: version(name) for name in ("lorahub", "nevergrad", "peft")}
    used = {module_id: round(weight, 4) for module_id, weight in weights.items()}
    delta = merge(drawn, weights, "published")
    return Made(delta, {"weights": used, **about, "peer_versions": versions}, time.perf_counter() - begun)


def draw(modules: Sequence[Module], seed: int) -> list[Module]:
    """At most 20 of them, at random, as in the package's example: it does not look at the target."""
    return random.Random(seed).sample(list(modules), min(MOST, len(modules)))


def package() -> ModuleType:
    """`lorahub.algorithm`, its environment made if it is not there.

    Raises:
        PeerError: it cannot be made.
    """
    folder = str(ENVIRONMENT.packages)
    if folder not in sys.path:
        sys.path.append(folder)  # behind everything that is here
    import lorahub.algorithm as algorithm  # type: ignore[import-not-found]

    found: ModuleType = algorithm
    return found


def learn(
    algorithm: Any, problem: Problem, modules: Sequence[Module], evaluations: int = EVALUATIONS
) -> tuple[dict[str, float], dict[str, Any]]:
    """(weight of each module, what a row says of the search).

    Raises:
        PeerError: a weight is outside the bounds of the paper.
    """
    backbone = copy.deepcopy(problem.backbone)  # the package folds its result into the model in the end
    losses: list[float] = []

    def load(names: Sequence[str], model: object = None) -> tuple[Any, None, dict[str, Any]]:
        return _loaded(backbone.model, modules), None, _tensors(modules)

    def loss(dataset: object, model: object, batch_size: object) -> float:
        losses.append(measure(backbone, problem.target.encoded).loss)
        return losses[-1]

    with _instead(algorithm, load_base_model_and_lora_modules=load, load_dataset=lambda *_: None), _apart():
        found, _, _ = algorithm.lorahub_learning(
            [module.id for module in modules], [], [], evaluations, get_loss=loss, seed=problem.seed
        )
    weights = {module.id: float(weight) for module, weight in zip(modules, found, strict=True)}
    if max(map(abs, weights.values())) > BOUND:
        raise PeerError(f"LoraHub's weights are not within +-{BOUND}: {weights}")
    return weights, {"evaluations": len(losses), "lowest_loss": min(losses), "searched": len(weights)}


def _loaded(model: Any, modules: Sequence[Module]) -> Any:
    """PEFT's model with the first of them, whose tensors are then replaced at every evaluation."""
    import peft

    return peft.PeftModel.from_pretrained(model, modules[0].folder).eval()


def _tensors(modules: Sequence[Module]) -> dict[str, dict[str, torch.Tensor]]:
    """Module id -> name in PEFT's state -> tensor, in fp32 as PEFT loads them."""
    return {
        module.id: {
            f"base_model.model.{name}.weight": tensor for name, tensor in module.tensors(dtype=torch.float32).items()
        }
        for module in modules
    }


@contextmanager
def _instead(holder: Any, **functions: Any) -> Iterator[None]:
    """Other functions in the place of a module's own, for a while."""
    own: Mapping[str, Any] = {name: getattr(holder, name) for name in functions}
    for name, function in functions.items():
        setattr(holder, name, function)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(holder, name, function)


@contextmanager
def _apart() -> Iterator[None]:
    """What is drawn from the generators of Python and numpy does not change what is drawn afterwards; no prints."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
