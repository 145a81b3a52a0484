"""The picture of the benchmark: test accuracy against parameters kept, a panel per target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SORA, START, FINAL = "#0b6e99", "#c4581e", "#555555"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw what is there; means over seeds.

    Raises:
        SystemExit: there is nothing to draw.
    """
    from matplotlib.figure import Figure

    done = [row for row in rows if row["stage"] == "run"]
    targets = list(dict.fromkeys(row["target"] for row in done))
    if not targets:
        raise SystemExit("no rows yet, so there is nothing to draw")
    wide = min(3, len(targets))
    high = -(-len(targets) // wide)
    figure = Figure(figsize=(3.4 * wide + 0.6, 2.7 * high + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(high, wide, squeeze=False)).ravel()
    for axes, target in zip(panels, targets, strict=False):
        here = [row for row in done if row["target"] == target]
        _panel(axes, here, target)
    for axes in panels[len(targets) :]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=wide, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    return path


def _panel(axes: Any, rows: Sequence[dict[str, Any]], target: str) -> None:
    soras = [row for row in rows if row["kind"] == "sora"]
    points = [_mean([row for row in soras if row["cut"] == cut]) for cut in sorted({row["cut"] for row in soras})]
    axes.plot(*zip(*points, strict=True), color=SORA, marker="o", markersize=4, linewidth=1.6, label="SoRA, four xi")
    for kind, colour, mark, label in (
        ("lora-start", START, "s", "LoRA of the first rank"),
        ("lora-final", FINAL, "^", "LoRA of the chosen size"),
    ):
        found = [row for row in rows if row["kind"] == kind]
        if found:
            axes.plot(*_mean(found), color=colour, marker=mark, markersize=7, linestyle="none", label=label)
    axes.set_title(target, fontsize=9)
    axes.set_xlabel("thousand parameters", fontsize=8)
    axes.set_ylabel("test accuracy", fontsize=8)
    axes.set_xlim(left=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _mean(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(thousand parameters, accuracy)."""
    return float(np.mean([row["parameters"] for row in rows])) / 1000, float(np.mean([row["accuracy"] for row in rows]))
