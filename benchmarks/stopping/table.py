"""The table of `results.jsonl`: accuracy where each rule leads, means over targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.stopping.run import STARTS

HEAD = ("chosen by", "targets", *(f"from {start}" for start in STARTS))


def table_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line for each rule; only targets that have all starts count."""
    found = {(row["target"], row["start"]): row["accuracy"] for row in rows}
    targets = [target for target in dict.fromkeys(t for t, _ in found) if all((target, s) in found for s in STARTS)]
    if not targets:
        return []
    return [
        [
            rule,
            str(len(targets)),
            *(f"{np.mean([found[target, start][rule] for target in targets]):.3f}" for start in STARTS),
        ]
        for rule in found[targets[0], STARTS[0]]
    ]
