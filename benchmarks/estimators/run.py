"""Scores of every estimator, and of the rankings it is held against, on the report targets.

    TRANSFER_TASKS=DIR python -m benchmarks.estimators.run

One row for each target, method, number of examples, seed and estimator: a score for every module and, for LoRA with 64
examples, the seconds it took with nothing computed before; elsewhere estimators share what they compute. What a row
can't be made for (LEEP of a multiple choice task) says why in `refused`.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.estimators.matrix import HERE
from benchmarks.estimators.matrix import KEY as MATRIX_KEY
from benchmarks.estimators.others import OTHERS, Ranking, prepare
from benchmarks.options import parsed
from benchmarks.pace import Pace
from benchmarks.rows import Rows
from benchmarks.shared_inputs import related
from benchmarks.targets import TARGETS
from transfer.backbones import load_backbone
from transfer.errors import ConfigError
from transfer.similarity import ESTIMATORS, Target, find_sources
from transfer.tasks import load_task
from zoo import Module, Zoo

KEY = ("target", "method", "examples", "seed", "estimator")
SEEDS = (0,)
TIMED = ("lora", 64)


def gains(rows: Rows, method: str) -> dict[str, dict[str, float]]:
    """Module id -> target -> accuracy above the shared start, of modules as they are."""
    here = [row for row in rows.rows if row["method"] == method and row["steps"] == 0]
    scratch = {row["target"]: row["accuracy"] for row in here if row["module"] == "scratch"}
    found: dict[str, dict[str, float]] = {}
    for row in here:
        if row["module"] != "scratch" and row["target"] in scratch:
            found.setdefault(row["module"], {})[row["target"]] = row["accuracy"] - scratch[row["target"]]
    return found


def scored(name: str, target: Target, modules: list[Module], matrix: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Scores by module id and seconds. What is kept of the sources, as a signature is, does not count."""
    ranking = Ranking(target, modules, matrix)
    if name in OTHERS:
        prepare(name, ranking)
    begun = time.perf_counter()
    try:
        values = OTHERS[name](ranking) if name in OTHERS else ESTIMATORS.get(name)().score(target, modules)
    except ConfigError as error:
        return {"refused": str(error).splitlines()[0]}
    scores = {module.id: float(np.float32(value)) for module, value in zip(modules, values, strict=True)}
    return {"scores": scores, "seconds": round(time.perf_counter() - begun, 2)}


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default=",".join(TARGETS["report"]))
    parser.add_argument("--methods", default="lora,adapter,prefix")
    parser.add_argument("--examples", default="64,16,256")
    parser.add_argument("--estimators", default=",".join([*ESTIMATORS.names(), *OTHERS]))
    parser.add_argument("--matrix", type=Path, default=HERE / "matrix.jsonl", help="read by target-free alone")
    parser.add_argument("--out", type=Path, default=HERE / "scores.jsonl")
    parser.add_argument("--smoke", action="store_true", help="one development target, cheap estimators: a minute")
    options = parsed(parser)
    if options.smoke:
        options.targets, options.methods, options.examples = "trec", "lora", "16"
        options.estimators = "gradient:first-order,embedding:cosine,tf-idf"
        options.out = options.out.with_name("smoke-scores.jsonl")
    rows = Rows(options.out, KEY)
    matrix = Rows(options.matrix, MATRIX_KEY)
    backbone = load_backbone()
    names = options.estimators.split(",")
    grid = itertools.product(
        map(int, options.examples.split(",")), options.methods.split(","), options.targets.split(","), SEEDS
    )
    units = list(grid)
    pace = Pace(len(units) * len(names))
    failed: list[str] = []
    for examples, method, task, seed in units:
        modules = find_sources(Zoo.starter(), backbone, method, exclude=related(task))
        drawn = load_task(task, examples=examples, seed=seed, source="folder")
        timed = (method, examples) == TIMED
        target = Target.for_modules(drawn, backbone, modules, method, seed)
        for name in names:
            key = {"target": task, "method": method, "examples": examples, "seed": seed, "estimator": name}
            if rows.done(**key) is not None:
                pace.skip()
                continue
            try:
                target = Target.for_modules(drawn, backbone, modules, method, seed) if timed else target
                found = scored(name, target, modules, gains(matrix, method))
            except Exception as error:  # whatever it is, the others go on; it has no row, so it is tried again
                failed.append(f"{task} {method} {examples} {name}: {type(error).__name__}: {error}")
                continue
            rows.add(**key, **(found if timed else found | {"seconds": None}))
            print(*key.values(), found.get("seconds", found.get("refused")), pace.step(), flush=True)
    if failed:
        raise SystemExit("\n".join(["these could not be made:", *failed]))


if __name__ == "__main__":
    main()
