"""Learning rates: chosen on dev from one grid, the same for every start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.rows import Rows
from benchmarks.strategies.problem import Problem
from transfer.deltas import Delta
from transfer.keeping.work import Trajectory

KEY = ("stage", "target", "method", "start", "keep", "examples", "seed", "tuning", "learning_rate_factor")

GRID = (1 / 3, 1.0, 3.0)  # of the method's own learning rate


def run_key(**run: Any) -> dict[str, Any]:
    """What a row is known by; of `KEY`, what is not given is None."""
    return {name: run.get(name) for name in KEY}


def rate_key(problem_of: dict[str, Any], start: str, factor: float) -> dict[str, Any]:
    """Of the row of one tune that chooses a rate."""
    return run_key(stage="rate", **problem_of, start=start, learning_rate_factor=round(factor, 4))


def choose_rate(
    rows: Rows, problem_of: dict[str, Any], start: str, grid: Sequence[float], make: Callable[[], tuple[Problem, Delta]]
) -> float:
    """The factor of the method's learning rate whose tune has the lowest calibrated dev loss at its best step.

    Args:
        rows: Where tunes are found and written.
        problem_of: target, method, examples, seed and tuning of the problem that chooses.
        start: What is tuned.
        grid: The factors.
        make: The problem and the start, where a tune is missing.
    """
    losses = {}
    for factor in grid:
        key = rate_key(problem_of, start, factor)
        row = rows.done(**key)
        if row is None:
            problem, delta = make()
            path = problem.path(delta, factor * delta.method.learning_rate)
            row = rows.add(**key, dev_loss=best_loss(path), best_step=path.best_step, **cost(path))
        losses[factor] = row["dev_loss"]
    return min(losses, key=lambda factor: (losses[factor], factor))


def best_loss(path: Trajectory) -> float:
    return path.losses[path.best_step]


def cost(path: Trajectory) -> dict[str, Any]:
    return {"steps": path.tuned.steps, "seconds": round(path.tuned.seconds, 2), "threads": torch.get_num_threads()}
