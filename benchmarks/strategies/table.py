"""The table of `sixty_steps.jsonl`, in Markdown: tunes of 60 steps, of which the last counts; means over seeds.

python -m benchmarks.strategies.table
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Rows

HERE = Path(__file__).parent
STARTS = ("scratch", "uniform", "gradient:first-order")
KEY = ("target", "method", "start", "examples", "steps", "seed", "learning_rate_factor", "stage")


def cell(values: list[float]) -> str:
    """Mean, and the range over seeds when there are several."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def table(rows: list[dict[str, Any]], steps: int) -> str:
    """A line per target and method."""
    head = ["target", "method", "seeds", "majority", "untrained", "scratch", "uniform", "first-order"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    runs = [row for row in rows if row["stage"] == "run" and row["steps"] == steps]
    for target, method in dict.fromkeys((row["target"], row["method"]) for row in runs):
        here = [row for row in runs if (row["target"], row["method"]) == (target, method)]
        bare = next(row for row in here if row["start"] == "untrained")
        found = {start: [row[f"accuracy_step{steps}"] for row in here if row["start"] == start] for start in STARTS}
        seeds = str(max(len(values) for values in found.values()))
        cells = [cell(found[start]) for start in STARTS]
        shares = [f"{bare['majority']:.3f}", f"{bare['accuracy_step0']:.3f}"]
        lines.append("| " + " | ".join([target, method, seeds, *shares, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=HERE / "sixty_steps.jsonl")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    print(table(Rows(options.results, KEY).rows, options.steps))


if __name__ == "__main__":
    main()
