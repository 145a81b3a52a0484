"""How long a guard has to tune: what dev says after some steps, against dev rows that nothing else sees at the end.

Each run of a start is held against scratch of the same target and seed: the difference of calibrated dev losses, of
the best step so far, and that of the calibrated losses at the end on the rows that were held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.strategies.report import SCRATCH

STEPS = (0, 10, 20, 30, 40, 60)
HEAD = ("steps", "pairs", "dev says better", "of these better at the end", "right", "Spearman")


def guard_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each number of steps, over all starts, targets and seeds whose rows have what it takes."""
    tuned = [row for row in rows if row["keep"] == "best" and row["dev_history"] and "held_loss_best" in row]
    scratch = {(row["target"], row["seed"]): row for row in tuned if row["start"] == SCRATCH}
    pairs = [
        (row, scratch[row["target"], row["seed"]])
        for row in tuned
        if row["start"] != SCRATCH and (row["target"], row["seed"]) in scratch
    ]
    if len(pairs) < 2:
        return []
    end = np.array([ours["held_loss_best"] - theirs["held_loss_best"] for ours, theirs in pairs])
    lines = []
    for steps in STEPS:
        said = np.array([_loss_by(ours, steps) - _loss_by(theirs, steps) for ours, theirs in pairs])
        better = said < 0
        lines.append(
            [
                str(steps),
                str(len(pairs)),
                f"{better.mean():.2f}",
                f"{(end[better] < 0).mean():.2f}" if better.any() else "-",
                f"{(np.sign(said) == np.sign(end)).mean():.2f}",
                f"{spearmanr(said, end).statistic:.2f}" if said.std() and end.std() else "-",
            ]
        )
    return lines


def _loss_by(row: dict[str, Any], steps: int) -> float:
    return min(look["calibrated"] for look in row["dev_history"] if look["step"] <= steps)
