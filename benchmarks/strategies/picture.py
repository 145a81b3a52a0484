"""Pictures: gains of starts with their intervals and what they cost, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.strategies.report import SCRATCH, curve, gain

BLUE, GREY = "#1f5fa8", "#8a8a8a"


def draw(rows: Sequence[dict[str, Any]], path: Path, title: str) -> Path:
    """Left: relative gain over scratch at step 60 and at the best step. Right: the same against seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    starts = [s for s in dict.fromkeys(row["start"] for row in rows if row["keep"] == "best") if s != SCRATCH]
    found = {s: (gain(rows, s, "accuracy_step60"), gain(rows, s, "accuracy_best")) for s in starts}
    known = {s: (sixty, best) for s, (sixty, best) in found.items() if sixty is not None and best is not None}
    order = sorted(known, key=lambda s: known[s][1].relative)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.2 + 0.32 * max(len(order), 6)), layout="constrained")
    for number, (color, label) in enumerate(((GREY, "at step 60"), (BLUE, "at the best dev step"))):
        values = [100 * known[s][number].relative for s in order]
        low = [100 * (known[s][number].relative - known[s][number].low) for s in order]
        high = [100 * (known[s][number].high - known[s][number].relative) for s in order]
        places = np.arange(len(order)) + (0.14 if number else -0.14)
        left.errorbar(values, places, xerr=[low, high], fmt="o", color=color, label=label, capsize=2, markersize=4)
    left.axvline(0, color="black", linewidth=0.8)
    left.set_yticks(range(len(order)), order)
    left.set_xlabel("accuracy above scratch, % (95% interval)")
    left.set_title(title)
    left.legend(loc="lower right", fontsize=8)
    for start in order:
        here = [row for row in rows if (row["start"], row["keep"]) == (start, "best")]
        seconds = float(np.mean([row["seconds_start"] for row in here]))
        right.plot(max(seconds, 0.1), 100 * known[start][1].relative, "o", color=BLUE, markersize=4)
        right.annotate(
            start,
            (max(seconds, 0.1), 100 * known[start][1].relative),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=7,
        )
    right.axhline(0, color="black", linewidth=0.8)
    right.set_xscale("log")
    right.set_xlabel("seconds to make the start")
    right.set_ylabel("above scratch at the best dev step, %")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def draw_curves(rows: Sequence[dict[str, Any]], starts: Sequence[str], path: Path, title: str) -> Path | None:
    """Accuracy by step on dev rows that nothing else sees, means over targets; None where no row has a curve."""
    curves = {start: found for start in (SCRATCH, *starts) if (found := curve(rows, start))}
    if not curves:
        return None
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    styles = ("-", "--", "-.", ":")
    for number, (start, found) in enumerate(curves.items()):
        color = "black" if start == SCRATCH else None
        axes.plot(
            list(found), list(found.values()), styles[number % 4], color=color, marker="o", markersize=3, label=start
        )
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy on held-out dev rows")
    axes.set_title(title)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
