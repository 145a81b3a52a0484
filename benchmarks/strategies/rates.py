"""Learning rates: chosen on dev from one grid, the same for every start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.rows import Rows
from benchmarks.strategies.problem import Problem
from transfer.deltas import Delta
from transfer.errors import DivergedError
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

    The start as it is does not count here: it has the same loss at every rate, so it would settle nothing. A tune that
    diverged is never chosen; of equal ones the method's own rate is, then the smaller.

    Args:
        rows: Where tunes are found and written.
        problem_of: target, method, examples, seed and tuning of the problem that chooses.
        start: What is tuned.
        grid: The factors.
        make: The problem and the start, where a tune is missing.
    Raises:
        DivergedError: all of them diverged.
    """
    losses = {}
    for factor in grid:
        key = rate_key(problem_of, start, factor)
        found = tuned_loss(rows.done(**key))
        if found is None:
            problem, delta = make()
            found = tuned_loss(rows.add(**key, **_tried(problem, delta, factor)))
        if found is not None and math.isfinite(found):
            losses[factor] = found
    if not losses:
        raise DivergedError(
            f"the tunes from {start} diverged at every learning rate", found=f"{list(grid)} times its own"
        )
    return min(losses, key=lambda factor: (losses[factor], factor != 1.0, factor))


def tuned_loss(row: dict[str, Any] | None) -> float | None:
    """The lowest dev loss of a tune after its start, infinity where it diverged; None where no row tells it.

    Rows from before it was written have that of all steps, which is the same unless the start was the best of them.
    """
    if row is None:
        return None
    if "tuned_loss" in row:
        return math.inf if row["tuned_loss"] is None else float(row["tuned_loss"])
    return float(row["dev_loss"]) if row["best_step"] > 0 else None


def _tried(problem: Problem, delta: Delta, factor: float) -> dict[str, Any]:
    """What the row of a tune says."""
    try:
        path = problem.path(delta, factor * delta.method.learning_rate)
    except DivergedError as error:
        return {"tuned_loss": None, "diverged": str(error).splitlines()[0]}
    after = path.losses[best_after(path)]
    return {
        "tuned_loss": after if math.isfinite(after) else None,
        "dev_loss": best_loss(path),
        "best_step": path.best_step,
        "dev_history": path.tuned.history,
        **cost(path),
    }


def best_after(path: Trajectory) -> int:
    """The step of the lowest calibrated dev loss after the start, the first of equal ones."""
    after = {step: loss if math.isfinite(loss) else math.inf for step, loss in path.losses.items() if step > 0}
    return min(after, key=lambda step: (after[step], step))


def best_loss(path: Trajectory) -> float:
    """The calibrated dev loss at the best step, the start among them."""
    return path.losses[path.best_step]


def cost(path: Trajectory) -> dict[str, Any]:
    """Steps and seconds of a tune."""
    return {"steps": path.tuned.steps, "seconds": round(path.tuned.seconds, 2), "threads": torch.get_num_threads()}
