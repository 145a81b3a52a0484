"""The transfer matrix as a heat map: what each source module gives to each target, in points of accuracy.

python -m benchmarks.estimators.picture --out heatmap.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.estimators.matrix import HERE, KEY
from benchmarks.rows import Rows


def table(rows: Sequence[dict[str, Any]], method: str, steps: int) -> tuple[list[str], list[str], np.ndarray]:
    """(source tasks, targets, gains): test accuracy less that of the shared start, in points; NaN where left out.

    Sources are sorted by category, then by name.
    """
    here = [row for row in rows if (row["method"], row["steps"]) == (method, steps)]
    scratch = {row["target"]: row["accuracy"] for row in here if row["module"] == "scratch"}
    modules = [row for row in here if row["module"] != "scratch" and row["target"] in scratch]
    targets = list(dict.fromkeys(row["target"] for row in modules))
    sources = sorted({(str(row["category"]), row["source"]) for row in modules})
    gains = np.full((len(sources), len(targets)), np.nan)
    for row in modules:
        place = sources.index((str(row["category"]), row["source"])), targets.index(row["target"])
        gains[place] = 100 * (row["accuracy"] - scratch[row["target"]])
    return [f"{name}  ({category})" for category, name in sources], targets, gains


def draw(rows: Sequence[dict[str, Any]], path: Path, method: str = "lora", steps: int = 0) -> Path:
    """Draw one method's matrix.

    Raises:
        SystemExit: there is nothing to draw.
    """
    from matplotlib.figure import Figure

    sources, targets, gains = table(rows, method, steps)
    if not targets:
        raise SystemExit(f"no rows of {method} after {steps} steps, so there is nothing to draw")
    figure = Figure(figsize=(3.2 + 0.62 * len(targets), 1.6 + 0.2 * len(sources)), layout="constrained")
    axes = figure.subplots()
    most = float(np.nanmax(np.abs(gains)))
    image = axes.imshow(gains, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(targets)), targets, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(sources)), sources, fontsize=7)
    for row, column in np.argwhere(np.isfinite(gains)):
        value = gains[row, column]
        dark = abs(value) > 0.6 * most
        axes.text(
            column, row, f"{value:+.0f}", ha="center", va="center", fontsize=6, color="white" if dark else "black"
        )
    when = "as it is" if steps == 0 else f"after {steps} steps"
    axes.set_title(f"{method}: points above the shared start, {when}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.5)
    figure.savefig(path, dpi=130)
    return path


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--matrix", type=Path, default=HERE / "matrix.jsonl")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "heatmap.png")
    options = parser.parse_args()
    print(f"drawn into {draw(Rows(options.matrix, KEY).rows, options.out, options.method, options.steps)}")


if __name__ == "__main__":
    main()
