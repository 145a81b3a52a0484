"""The tables of `deltas.jsonl`; apart from the benchmark, which needs PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEY = ("measure", "method", "against", "batch", "length", "threads")
HEAD = ("measure", "ours", "against", "texts x tokens", "threads", "ours, s", "theirs, s", "ratio (95%)")
ATTACH_HEAD = ("library", "modules", "threads", "first tenth, ms", "last tenth, ms", "last over first")


def table_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per pair that was timed by turns."""
    return [
        [
            row["measure"],
            row["method"],
            row["against"],
            f"{row['batch']} x {row['length']}",
            str(row["threads"]),
            f"{row['seconds_ours']:.4f}",
            f"{row['seconds_theirs']:.4f}",
            f"{row['ratio']:.3f} ({row['ratio_low']:.3f} to {row['ratio_high']:.3f})",
        ]
        for row in rows
        if row["measure"] != "attach"
    ]


def attach_rows(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A line per library: median milliseconds of the first and of the last tenth."""
    return [
        [
            name,
            str(row["modules"]),
            str(row["threads"]),
            f"{row[f'first_{side}'] * 1000:.1f}",
            f"{row[f'last_{side}'] * 1000:.1f}",
            f"{row[f'growth_{side}']:.2f}",
        ]
        for row in rows
        if row["measure"] == "attach"
        for side, name in (("ours", "transfer"), ("theirs", "peft"))
    ]
