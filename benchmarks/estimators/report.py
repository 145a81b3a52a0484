"""How good each ranking is, against the transfer matrix: NDCG, regret, Spearman, top-1 hits, seconds.

    python -m benchmarks.estimators.report

Gain of a module: its test accuracy on the target. NDCG over all modules with the accuracies as gains, as in the
literature; it is high for any order when accuracies are close, so that of random orders stands beside it. Regret@k:
the best module's accuracy less that of the best among the first k, in points of accuracy. Random is the mean of 1,000
orders. Intervals hold 95% of the means over targets drawn anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from benchmarks.estimators.matrix import HERE
from benchmarks.estimators.matrix import KEY as MATRIX_KEY
from benchmarks.estimators.run import KEY
from benchmarks.rows import Rows
from transfer.similarity import ESTIMATORS

HEAD = ("estimator", "targets", "NDCG", "regret@1", "regret@3", "regret@5", "Spearman", "top-1", "seconds")
CHANCE = "random"
DRAWS = 1000


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


def by_chance(accuracy: Sequence[float], draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """The mean metrics of random orders; those of an order are that of its ranks."""
    generator = np.random.default_rng(seed)
    found = [ranking_metrics(generator.permutation(len(accuracy)).tolist(), accuracy) for _ in range(draws)]
    return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}


def table_rows(
    scores: Iterable[dict[str, Any]],
    matrix: Iterable[dict[str, Any]],
    method: str,
    examples: int,
    steps: int,
    everywhere: bool = False,
) -> list[list[str]]:
    """A line for each estimator, means over the same targets for all, best NDCG first; of a target, over its seeds.

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
    seen: dict[str, dict[str, list[dict[str, float]]]] = {}
    for row in scores:
        there = accuracy.get(row["target"], {})
        if row["method"] != method or row["examples"] != examples or not set(row.get("scores", ())) <= set(there):
            continue
        if "scores" in row:
            ids = sorted(row["scores"])
            metrics = ranking_metrics([row["scores"][i] for i in ids], [there[i] for i in ids])
            timed = {} if row["seconds"] is None else {"seconds": row["seconds"]}
            seen.setdefault(row["estimator"], {}).setdefault(row["target"], []).append(metrics | timed)
    every = set().union(*seen.values())
    if everywhere:
        seen = {name: group for name, group in seen.items() if set(group) == every}
    shared = sorted(every.intersection(*seen.values()))
    if not shared:
        return []
    seen[CHANCE] = {target: [by_chance(list(accuracy[target].values()))] for target in shared}
    found = {name: _over_seeds([group[target] for target in shared]) for name, group in seen.items()}
    return [
        [
            name,
            str(len(shared)),
            f"{metrics['NDCG'].mean():.3f}",
            f"{metrics['regret@1'].mean():.1f}",
            _shown(metrics["regret@3"], 1),
            f"{metrics['regret@5'].mean():.1f}",
            _shown(metrics["Spearman"], 2),
            f"{metrics['top-1'].mean():.2f}",
            f"{metrics['seconds'].mean():.1f}" if "seconds" in metrics else "-",
        ]
        for name, metrics in sorted(found.items(), key=lambda item: -item[1]["NDCG"].mean())
    ]


def of_starts(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of scores from rows of starts: those of an estimator say what it scored, with more seeds."""
    names = set(ESTIMATORS.names())
    return [
        {
            **{name: row[name] for name in ("target", "method", "examples", "seed", "scores")},
            "estimator": row["start"],
            "seconds": None,
        }
        for row in runs
        if row["start"] in names and row["keep"] in ("best", None) and "scores" in row
    ]


def _over_seeds(groups: Sequence[Sequence[dict[str, float]]]) -> dict[str, np.ndarray]:
    """metric -> (targets,): what all targets have, each the mean over the seeds that have it."""
    there = [{name for metrics in group for name in metrics} for group in groups]
    return {
        name: np.array([np.mean([metrics[name] for metrics in group if name in metrics]) for group in groups])
        for name in set.intersection(*there)
    }


def _shown(values: np.ndarray, digits: int) -> str:
    """The mean over targets, with its interval where there are several."""
    mean = f"{values.mean():.{digits}f}"
    if len(values) < 2:
        return mean
    drawn = values[np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{mean} ({low:.{digits}f} to {high:.{digits}f})"


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
