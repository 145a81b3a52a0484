"""The transfer matrix: test accuracy of every source module on every target, as it is and after a short tune.

    TRANSFER_TASKS=DIR python -m benchmarks.estimators.matrix
    TRANSFER_TASKS=DIR python -m benchmarks.estimators.matrix --steps 60 --methods lora

One row for each target, method and module (and one for the shared start, `scratch`). With steps, each is tuned on the
same 64 examples in the same order, at the learning rate that dev chose once for the uniform average of that target and
method (for `scratch`: once for it). Test is measured and never used to choose.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import parsed
from benchmarks.pace import Pace
from benchmarks.rows import Rows
from benchmarks.shared_inputs import related
from benchmarks.strategies.problem import Problem, Tuning
from benchmarks.strategies.rates import GRID, choose_rate
from benchmarks.strategies.rates import KEY as RATE_KEY
from benchmarks.targets import TARGETS
from transfer.backbones import load_backbone
from transfer.deltas import Delta
from transfer.ensembling import merge
from transfer.similarity import find_sources
from zoo import Zoo

HERE = Path(__file__).parent
KEY = ("target", "method", "module", "steps", "examples", "seed")
SEED = 0


def measure_target(
    problem: Problem, common: dict[str, Any], rows: Rows, rates: Rows, most: int | None, pace: Pace
) -> None:
    """Write the rows of one target and method that are not there yet."""
    steps = common["steps"]
    starts: dict[str, Any] = {"scratch": None, **{module.id: module for module in problem.modules[:most]}}
    missing = [name for name in starts if rows.done(**common, module=name) is None]
    pace.skip(len(starts) - len(missing))
    if not missing:
        return
    factors: dict[str, float] = {}
    if steps:
        average = {module.id: 1 / len(problem.modules) for module in problem.modules}
        for kind, start in (("scratch", problem.scratch), ("uniform", merge(problem.modules, average))):
            factors[kind] = choose_rate(rates, problem.named(), kind, GRID, partial(_pair, problem, start))
        problem.tuning = replace(problem.tuning, check=steps)  # dev has chosen the rates; nothing else looks at it
    for name in missing:
        begun = time.perf_counter()
        module = starts[name]
        delta = problem.scratch if module is None else problem.delta(module.tensors(dtype=torch.float32))
        rate = None
        if steps:
            rate = factors["scratch" if module is None else "uniform"] * delta.method.learning_rate
            delta = problem.delta(problem.path(delta, rate).tensors[steps])
        found = problem.test(delta)
        rows.add(
            **common,
            module=name,
            source="scratch" if module is None else module.card.task,
            category=None if module is None else module.card.category,
            accuracy=found["accuracy"],
            macro_f1=found["macro_f1"],
            right=found["right"],
            majority=problem.task.majority,
            learning_rate=rate,
            seconds=round(time.perf_counter() - begun, 2),
        )
        print(common["target"], common["method"], name, steps, f"{found['accuracy']:.3f}", pace.step(), flush=True)


def _pair(problem: Problem, start: Delta) -> tuple[Problem, Delta]:
    return problem, start


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default=",".join(TARGETS["report"]))
    parser.add_argument("--methods", default="lora,adapter,prefix")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--out", type=Path, default=HERE / "matrix.jsonl")
    parser.add_argument("--smoke", action="store_true", help="one development target, two modules: ends in a minute")
    options = parsed(parser)
    most = None
    if options.smoke:
        options.targets, options.methods, most = "trec", "lora", 2
        options.out = options.out.with_name("smoke-matrix.jsonl")
    rows = Rows(options.out, KEY)
    rates = Rows(options.out.with_name(f"{options.out.stem}-rates.jsonl"), RATE_KEY)
    backbone = load_backbone()
    units = [(method, name) for method in options.methods.split(",") for name in options.targets.split(",")]
    sources = {pair: find_sources(Zoo.starter(), backbone, pair[0], exclude=related(pair[1])) for pair in units}
    pace = Pace(sum(1 + len(modules[:most]) for modules in sources.values()))
    for method, name in units:
        common = {"target": name, "method": method, "steps": options.steps}
        common |= {"examples": options.examples if options.steps else None, "seed": SEED if options.steps else None}
        tuning = Tuning(steps=options.steps or 1, patience=None)
        problem = Problem(name, method, SEED, options.examples, backbone, tuning)
        measure_target(problem, common, rows, rates, most, pace)


if __name__ == "__main__":
    main()
