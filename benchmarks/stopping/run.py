"""What should choose the step and the learning rate: accuracy where each rule on few dev examples leads.

    TRANSFER_TASKS=DIR python -m benchmarks.stopping.run --targets trec,mrpc

For each development target, from scratch and from the default initialization: LoRA on 64 examples, 150 steps at each of
three learning rates, the scores of 300 further dev examples at ten steps. Then, 200 times, 64 of these are drawn as the
few dev examples; each rule chooses step and rate by them, and the accuracy on the rest counts. Test is not looked at.
The scores of a tune are kept in a folder, so a run that was stopped goes on; rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from benchmarks.options import parsed
from benchmarks.pace import Pace
from benchmarks.rows import Rows
from benchmarks.strategies.problem import Problem, Tuning
from benchmarks.strategies.starts import start_of
from benchmarks.targets import TARGETS
from transfer.backbones import Backbone, load_backbone
from transfer.deltas import Delta
from transfer.paths import cache_folder
from transfer.tasks import load_task
from transfer.training.measuring import Measured

HERE = Path(__file__).parent
KEY = ("target", "start", "examples", "seed", "steps")
STARTS = ("scratch", "gradient:first-order")
FACTORS = (1 / 9, 1 / 3, 1.0)  # of the method's learning rate
LOOKS = (0, 10, 20, 30, 40, 60, 80, 100, 120, 150)
HELD = 300
DRAWS = 200


@dataclass(frozen=True)
class Candidate:
    """One step at one rate: the scores of the held-out examples (n, choices), and their labels (n,)."""

    step: int
    scores: np.ndarray
    labels: np.ndarray

    def on(self, rows: np.ndarray) -> Measured:
        """What some of the examples say."""
        scores, labels = self.scores[rows], self.labels[rows]
        losses = -np.take_along_axis(log_softmax(scores.astype(np.float64), axis=1), labels[:, None], axis=1)[:, 0]
        return Measured(losses=losses, predicted=scores.argmax(axis=1), labels=labels, scores=scores)


RULES: dict[
    str, Callable[[int, Measured], tuple[float, ...]]
] = {  # of a step and its dev examples; the lowest is taken
    "loss": lambda _, seen: (seen.loss,),
    "calibrated loss": lambda _, seen: (seen.calibrated_loss,),
    "accuracy, then loss": lambda _, seen: (-seen.accuracy, seen.loss),
    "accuracy, then calibrated loss": lambda _, seen: (-seen.accuracy, seen.calibrated_loss),
    "last step, rate by calibrated loss": lambda step, seen: (float(step != LOOKS[-1]), seen.calibrated_loss),
}


def accuracies(candidates: Sequence[Candidate], few: int = 64, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Mean accuracy on the rest, by rule; and the best that any candidate has there, which no rule can know."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in (*RULES, "best there is")}
    for _ in range(draws):
        order = generator.permutation(len(candidates[0].labels))
        seen = [candidate.on(order[:few]) for candidate in candidates]
        rest = [candidate.on(order[few:]).accuracy for candidate in candidates]
        for name, rule in RULES.items():
            found[name].append(rest[min(range(len(seen)), key=lambda place: rule(candidates[place].step, seen[place]))])
        found["best there is"].append(max(rest))
    return {name: float(np.mean(values)) for name, values in found.items()}


def scored(problem: Problem, start: str, factor: float, held: Any, folder: Path) -> dict[int, np.ndarray]:
    """Step -> scores of the held-out examples along one tune; read where they were made before."""
    name = problem.task.name
    path = folder / f"{name}__{start.split(':')[0]}__{factor:.4f}.npz"
    if not path.is_file():
        delta = start_of(problem, start).delta
        along = problem.path(delta, factor * delta.method.learning_rate)
        found = {}
        for step in LOOKS:
            with problem.backbone.use(Delta(delta.method, along.tensors[step], delta.settings)):
                found[f"held_{step}"] = problem.backbone.outputs(held)[0].numpy()
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **found)
        partial.replace(path)
    with np.load(path) as stored:
        return {step: stored[f"held_{step}"] for step in LOOKS}


def measured(backbone: Backbone, target: str, start: str, folder: Path) -> dict[str, Any]:
    """The row of one target and start."""
    begun = time.perf_counter()
    problem = Problem(target, "lora", 0, 64, backbone, Tuning(LOOKS[-1], 10, None, 16))
    used = {row["input"] for row in [*problem.task.train, *problem.task.dev]}
    everything = load_task(target, examples=None, seed=0, source="folder").dev
    held = backbone.encode([row for row in everything if row["input"] not in used][:HELD], problem.task.fields)
    labels = np.array([row.label for row in held])
    candidates = [
        Candidate(step, scores, labels)
        for factor in FACTORS
        for step, scores in scored(problem, start, factor, held, folder).items()
    ]
    return {"held": len(held), "accuracy": accuracies(candidates), "seconds": round(time.perf_counter() - begun, 1)}


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default=",".join(TARGETS["development"]))
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--scores", type=Path, default=cache_folder() / "benchmarks" / "stopping")
    options = parsed(parser)
    rows = Rows(options.out, KEY)
    backbone = load_backbone()
    runs = [(target, start) for target in options.targets.split(",") for start in STARTS]
    pace = Pace(len(runs))
    for target, start in runs:
        key = {"target": target, "start": start, "examples": 64, "seed": 0, "steps": LOOKS[-1]}
        if rows.done(**key) is not None:
            pace.skip()
            continue
        row = rows.add(**key, **measured(backbone, target, start, options.scores))
        shown = ", ".join(f"{name} {value:.3f}" for name, value in row["accuracy"].items())
        print(f"{target} from {start}: {shown}; {pace.step()}", flush=True)


if __name__ == "__main__":
    main()
