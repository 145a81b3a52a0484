"""How good each ranking is, against the transfer matrix: NDCG, regret, Spearman, top-1 hits, seconds.

    python -m benchmarks.estimators.report

Gain of a module: its test accuracy on the target. NDCG over all modules with the accuracies as gains, as in the
literature; it is high for any order when accuracies are close, so that of random orders stands beside it. Regret@k:
the best module's accuracy less that of the best among the first k, in points of accuracy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from benchmarks.estimators.matrix import HERE
from benchmarks.estimators.matrix import KEY as MATRIX_KEY
from benchmarks.estimators.run import KEY
from benchmarks.rows import Rows

HEAD = ("estimator", "targets", "NDCG", "regret@1", "regret@3", "regret@5", "Spearman", "top-1", "seconds")


def ranking_metrics(scores: Sequence[float], accuracy: Sequence[float]) -> dict[str, float]:
    """Of one ranking; both in the order of the modules."""
    ours, gained = np.asarray(scores, dtype=float), np.asarray(accuracy, dtype=float)
    best = gained.max()
    order = np.argsort(-ours, kind="stable")
    flat = ours.std() == 0 or gained.std() == 0
    return {
        "NDCG": float(ndcg_score(gained[None], ours[None])),
        **{f"regret@{k}": 100 * float(best - gained[order[:k]].max()) for k in (1, 3, 5)},
        "Spearman": 0.0 if flat else float(spearmanr(ours, gained).statistic),
        "top-1": float(gained[order[0]] == best),
    }


def table_rows(
    scores: list[dict[str, Any]],
    matrix: list[dict[str, Any]],
    method: str,
    examples: int,
    steps: int,
    everywhere: bool = False,
) -> list[list[str]]:
    """A line for each estimator, means over the same targets for all, best NDCG first.

    Args:
        scores, matrix: Rows.
        method, examples, steps: Which of them.
        everywhere: Only estimators that score every target, over all of these; else all estimators, over the targets
            that all of them score.
    """
    accuracy: dict[str, dict[str, float]] = {}
    for row in matrix:
        if row["method"] == method and row["steps"] == steps and row["module"] != "scratch":
            accuracy.setdefault(row["target"], {})[row["module"]] = row["accuracy"]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores:
        there = accuracy.get(row["target"], {})
        if row["method"] != method or row["examples"] != examples or not set(row.get("scores", ())) <= set(there):
            continue
        if "scores" in row:
            ids = sorted(row["scores"])
            metrics = ranking_metrics([row["scores"][i] for i in ids], [there[i] for i in ids])
            found.setdefault(row["estimator"], {})[row["target"]] = {**metrics, "seconds": row["seconds"]}
    every = set().union(*found.values())
    if everywhere:
        found = {name: group for name, group in found.items() if set(group) == every}
    shared = sorted(every.intersection(*found.values()))
    if not shared:
        return []
    means = {
        name: {key: float(np.mean([group[target][key] for target in shared])) for key in group[shared[0]]}
        for name, group in found.items()
    }
    return [
        [
            name,
            str(len(shared)),
            f"{mean['NDCG']:.3f}",
            *(f"{mean[f'regret@{k}']:.1f}" for k in (1, 3, 5)),
            f"{mean['Spearman']:.2f}",
            f"{mean['top-1']:.2f}",
            f"{mean['seconds']:.1f}",
        ]
        for name, mean in sorted(means.items(), key=lambda item: -item[1]["NDCG"])
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scores", type=Path, default=HERE / "scores.jsonl")
    parser.add_argument("--matrix", type=Path, default=HERE / "matrix.jsonl")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()
    scores, matrix = Rows(options.scores, KEY).rows, Rows(options.matrix, MATRIX_KEY).rows
    for line in [HEAD, *table_rows(scores, matrix, options.method, options.examples, options.steps)]:
        print(" | ".join(line))


if __name__ == "__main__":
    main()
