"""Tables of starts by us and by other libraries: accuracies, gains over scratch, what making the start costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.markdown import NOTHING, markdown
from benchmarks.peers.names import library
from benchmarks.strategies.experiment import Experiment
from benchmarks.strategies.report import SCRATCH, Row, failures, gain, groups, runs

HERE = Path(__file__).parent
CONFIG = "peers.json"
HEAD = (
    "start",
    "library",
    "targets",
    "step 0",
    "step 60",
    "best step",
    "gain at 60",
    "gain at best",
    "auto over it",
    "s",
    "MiB",
)
MEASURES = ("accuracy_step0", "accuracy_step60", "accuracy_best")


def within(rows: Iterable[Row], experiment: Experiment) -> list[Row]:
    """The runs that the experiment asks for: other benchmarks, whose rows are taken, have more of them."""
    asked = {
        (method, examples, seed, target, start)
        for part in experiment.parts
        for method in part.methods
        for examples in part.examples
        for seed in part.seeds
        for target in part.targets
        for start in (*part.starts, *part.as_they_are)
    }
    return [
        row
        for row in rows
        if row["stage"] == "run"
        and row["keep"] in ("best", None)
        and tuple(row[name] for name in ("method", "examples", "seed", "target", "start")) in asked
        and row["tuning"] == str(experiment.tuning)
    ]


def table_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each start, the best first; those that were not tuned have step 0 alone, and come last."""
    lines: list[tuple[tuple[bool, float], list[str]]] = []
    for start, keep in dict.fromkeys((row["start"], row["keep"]) for row in rows):
        here = [row for row in rows if (row["start"], row["keep"]) == (start, keep)]
        means = [_mean(here, name) for name in MEASURES]
        gains = [gain(rows, start, name) if keep and start != SCRATCH else None for name in MEASURES[1:]]
        auto = gain(rows, "auto", MEASURES[2], base=(start, keep)) if keep and start != "auto" else None
        targets = len({row["target"] for row in here})
        cost = [_mean(here, name) for name in ("seconds_start", "start_mib")]
        shown = [
            start,
            library(start),
            str(targets),
            *("-" if mean is None else f"{mean:.3f}" for mean in means),
            *("-" if one is None else one.shown() for one in (*gains, auto)),
            "-" if cost[0] is None else f"{cost[0]:.1f}",
            "-" if not cost[1] else f"{cost[1]:.0f}",
        ]
        best = means[-1] if means[-1] is not None else means[0]
        lines.append(((keep is None, -(best or 0.0)), shown))
    return [cells for _, cells in sorted(lines)]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """Over targets of the means over seeds; None where no row has it."""
    by_target: dict[str, list[float]] = {}
    for row in rows:
        if row.get(name) is not None:
            by_target.setdefault(row["target"], []).append(row[name])
    return float(np.mean([np.mean(values) for values in by_target.values()])) if by_target else None


def not_run(rows: Iterable[Row]) -> list[str]:
    """A line for each start that could not be made, with the reason and how often; a later try counts alone."""
    counts: dict[tuple[str, str, str], int] = {}
    for row, why in failures(rows):
        key = row["start"], row["method"], why
        counts[key] = counts.get(key, 0) + 1
    return [
        f"- `{start}` ({method}) could not be run, {n} of its runs: {why}" for (start, method, why), n in counts.items()
    ]


def versions(rows: Iterable[Row]) -> str:
    """Those of the libraries whose starts there are."""
    found = {f"{name} {number}" for row in rows for name, number in row.get("peer_versions", {}).items()}
    return ", ".join(sorted(found))


def page(rows: Iterable[Row], experiment: Experiment) -> str:
    """A table for each method, what could not be run, and the versions; "no rows" while no peer has one."""
    here = within(rows, experiment)
    if all(library(row["start"]) == "transfer" for row in here):
        return NOTHING
    parts = []
    for method, examples in groups(here):
        parts += [f"{method}, {examples} examples:", markdown(HEAD, table_rows(runs(here, method, examples)))]
    if notes := not_run(here):
        parts.append("\n".join(notes))
    if names := versions(here):
        parts.append(f"Made by {names}.")
    return "\n\n".join(parts)


def show(rows: list[Row], experiment: Experiment) -> None:
    """Print it."""
    print(page(rows, experiment))
