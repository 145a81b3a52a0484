"""The tables of `results.jsonl`, in Markdown, and the picture: means over seeds.

python -m benchmarks.sparsity.table --picture results.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Rows
from benchmarks.sparsity.picture import draw
from benchmarks.sparsity.run import HERE, KEY, chosen

HEAD = ("target", "seeds", "LoRA", "SoRA", "LoRA of its size", "kept", "seconds LoRA", "seconds SoRA")
SHRINK_HEAD = ("shrink", "kept", "test accuracy", "memorisation", "generalisation")

SETTINGS = ("examples", "steps", "rank")


def latest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the settings of the last one: those of other settings are another experiment."""
    return [row for row in rows if all(row.get(name) == rows[-1].get(name) for name in SETTINGS)]


def runs(rows: Iterable[dict[str, Any]], kind: str, target: str | None = None) -> list[dict[str, Any]]:
    """The rows of one kind that are no search for a learning rate."""
    return [r for r in rows if r["stage"] == "run" and r["kind"] == kind and target in (None, r["target"])]


def chosen_runs(rows: Iterable[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """The chosen SoRA of each seed that is finished, told from the two LoRAs beside it."""
    found = runs(rows, "sora", target)
    seeds = dict.fromkeys(row["seed"] for row in runs(rows, "lora-final", target))
    return [chosen([row for row in found if row["seed"] == seed]) for seed in seeds]


def finished(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Targets with all three kinds of runs."""
    return list(dict.fromkeys(row["target"] for row in runs(rows, "lora-final")))


def table_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per target, and their mean; accuracy of the SoRA that dev chose."""
    lines: list[list[float]] = []
    names: list[list[str]] = []
    for target in finished(rows):
        picked = chosen_runs(rows, target)
        start, final = runs(rows, "lora-start", target), runs(rows, "lora-final", target)
        names.append([target, str(len(picked))])
        accuracies = [[row["accuracy"] for row in found] for found in (start, picked, final)]
        shares = [row["share"] for row in picked]
        lines.append(
            [
                float(np.mean(v))
                for v in (*accuracies, shares, *([row["seconds"] for row in found] for found in (start, picked)))
            ]
        )
    if not lines:
        return []
    names.append(["mean", ""])
    lines.append([float(value) for value in np.mean(lines, axis=0)])
    return [
        [*name, *(f"{value:.3f}" for value in line[:3]), f"{100 * line[3]:.0f}%", f"{line[4]:.0f}", f"{line[5]:.0f}"]
        for name, line in zip(names, lines, strict=True)
    ]


def shrink_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for how far the gates shrank: means over targets and seeds; train and dev in percent of those at 0."""
    found = runs(rows, "sora")
    lines = []
    for cut in sorted({row["cut"] for row in found}):
        at = [row for row in found if row["cut"] == cut]
        share, accuracy = (float(np.mean([row[name] for row in at])) for name in ("share", "accuracy"))
        memory, general = (
            100 * float(np.mean([row[name] / _dense(found, row)[name] for row in at]))
            for name in ("train_accuracy", "dev_accuracy")
        )
        lines.append([f"{cut:g}", f"{100 * share:.0f}%", f"{accuracy:.3f}", f"{memory:.1f}", f"{general:.1f}"])
    return lines


def _dense(found: Sequence[dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """The SoRA of the same target and seed with all gates."""
    return next(r for r in found if (r["target"], r["seed"], r["cut"]) == (row["target"], row["seed"], 0.0))


def main() -> None:
    """Print the tables; draw the picture where asked."""
    from benchmarks.markdown import markdown

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--picture", type=Path, help="a .png or .svg; for the page: benchmarks/sparsity/results.png")
    options = parser.parse_args()
    rows = latest(Rows(options.results, KEY).rows)
    print(markdown(HEAD, table_rows(rows)))
    print()
    print(markdown(SHRINK_HEAD, shrink_rows(rows)))
    if options.picture is not None:
        print(f"\ndrawn into {draw(rows, options.picture)}")


if __name__ == "__main__":
    main()
