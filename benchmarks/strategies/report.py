"""Tables of an experiment's rows: every start and way of keeping against scratch, by method and number of examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.answers import paired_interval
from benchmarks.markdown import markdown, without_empty
from benchmarks.strategies.gains import Gain, gain_of
from benchmarks.targets import LEARNABLE

Row = dict[str, Any]
SCRATCH = "scratch"
UNIFORM = "uniform"
BOUND = "all-data"
HEAD = (
    *("start", "targets", "step 0", "step 60", "best step", "scratch there", "gain at 60", "gain at best", "w/t/l"),
    *("if tuned", "over uniform", "macro F1", "gain in macro F1", "steps", "seconds"),
)
STEP0_HEAD = ("start", "targets", "accuracy", "untrained there", "over untrained", "macro F1")
HELD_HEAD = (
    "start",
    "targets",
    "step 0",
    "step 60",
    "best step",
    "scratch there",
    "gain at 60",
    "gain at best",
    "loss",
)
KEEP_HEAD = ("way of keeping", "start", "targets", "accuracy", "gain over scratch", "over scratch, same way", "steps")
TARGET_HEAD = ("target", "majority", "untrained", "scratch")
PLOTTED = "accuracy_best"


def runs(rows: Iterable[Row], method: str, examples: int) -> list[Row]:
    """Finished runs of one method and number of examples."""
    return [
        row
        for row in rows
        if row["stage"] == "run"
        and (row["method"], row["examples"]) == (method, examples)
        and not {"error", "refused"} & row.keys()
    ]


def groups(rows: Iterable[Row]) -> list[tuple[str, int]]:
    """(method, examples) of every table, in the order of the rows."""
    return list(dict.fromkeys((row["method"], row["examples"]) for row in rows if row["stage"] == "run"))


def pairs(
    rows: Sequence[Row], ours: tuple[str, str | None], base: tuple[str, str | None], measure: str
) -> dict[str, list[tuple[Any, Any]]]:
    """target -> (ours, base) for each seed that has both. A run is named by (start, way of keeping)."""
    found: dict[tuple[str, str | None], dict[tuple[str, int], Any]] = {ours: {}, base: {}}
    for row in rows:
        for name in {ours, base}:
            if (row["start"], row["keep"]) == name and row.get(measure) is not None:
                found[name][row["target"], row["seed"]] = row[measure]
    table: dict[str, list[tuple[Any, Any]]] = {}
    for key, value in found[ours].items():
        if key in found[base]:
            table.setdefault(key[0], []).append((value, found[base][key]))
    return table


def gain(
    rows: Sequence[Row],
    start: str,
    measure: str,
    keep: str | None = "best",
    base: tuple[str, str | None] = (SCRATCH, "best"),
) -> Gain | None:
    """Of a start over another, scratch; None where no run has both."""
    found = pairs(rows, (start, keep), base, measure)
    return gain_of(found) if found else None


def curve(rows: Sequence[Row], start: str) -> dict[int, float]:
    """Step -> accuracy on dev rows that nothing else sees: the mean over targets of the means over seeds.

    Where a tune ended before a step, what it had last. Rows from before curves were measured have none.
    """
    by_target: dict[str, list[dict[int, float]]] = {}
    for row in rows:
        if (row["start"], row["keep"]) == (start, "best") and row.get("held_curve"):
            seen = {int(step): value for step, value in row["held_curve"].items()}
            by_target.setdefault(row["target"], []).append(seen)
    every = sorted({step for curves in by_target.values() for seen in curves for step in seen})
    last = {step: [[_until(seen, step) for seen in curves] for curves in by_target.values()] for step in every}
    return {step: float(np.mean([np.mean(values) for values in table])) for step, table in last.items()}


def _until(seen: dict[int, float], step: int) -> float:
    return seen[max(known for known in seen if known <= step)]


def speed(rows: Sequence[Row], start: str) -> str:
    """The first step at which the mean curve of a start is no lower than scratch's at its best step.

    On the targets and seeds that both have; beside it that best step, a mean over the runs.
    """
    there = {(row["target"], row["seed"]) for row in rows if (row["start"], row["keep"]) == (start, "best")}
    here = [row for row in rows if (row["target"], row["seed"]) in there]
    goal = gain(here, SCRATCH, "held_accuracy_best")
    steps = [row["best_step"] for row in here if (row["start"], row["keep"]) == (SCRATCH, "best")]
    seen = curve(here, start)
    if goal is None or not seen:
        return "-"
    reached = next((str(step) for step, value in seen.items() if value >= goal.mean), "never")
    return f"{reached} of {np.mean(steps):.0f}"


def table_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each start that was tuned, the largest gain first.

    A start that lacks a target is held against scratch on those that it has. Last comes what was trained on all of the
    target's data, as it is: what no start is expected to reach.
    """
    lines: list[tuple[float, list[str]]] = []
    for start in dict.fromkeys(row["start"] for row in rows if row["keep"] == "best"):
        found = {name: gain(rows, start, f"accuracy_{name}") for name in ("step0", "step60", "best")}
        first, middle, best = (found[name] for name in ("step0", "step60", "best"))
        if first is None or middle is None or best is None:
            continue
        here = [row for row in rows if (row["start"], row["keep"]) == (start, "best")]
        seconds = np.median([(row["seconds"] or 0.0) + row["seconds_start"] for row in here])
        uniform = None if start == UNIFORM else gain(rows, start, PLOTTED, base=(UNIFORM, "best"))
        f1 = gain(rows, start, "macro_f1_best")
        tuned = if_tuned(rows, start)
        cells = [f"{found_.mean:.3f}" for found_ in (first, middle, best)] + [f"{best.base:.3f}"]
        cells += ["-"] * 3 if start == SCRATCH else [middle.shown(), best.shown(), _counts(best)]
        cells.append("-" if tuned is None else f"{tuned:.3f}")
        cells.append("-" if uniform is None else uniform.shown())
        cells += ["-"] * 2 if f1 is None else [f"{f1.mean:.3f}", "-" if start == SCRATCH else f1.shown()]
        lines.append((best.relative, [start, str(best.targets), *cells, speed(rows, start), f"{seconds:.0f}"]))
    return [cells for _, cells in sorted(lines, key=lambda line: -line[0])] + _bound(rows)


def _bound(rows: Sequence[Row]) -> list[list[str]]:
    whole = [row | {PLOTTED: row["accuracy_step0"]} for row in rows if row["start"] == BOUND]
    found = gain([*rows, *whole], BOUND, PLOTTED, None) if whole else None
    if found is None:
        return []
    cells = [BOUND, str(found.targets), "-", "-", f"{found.mean:.3f}", f"{found.base:.3f}", "-", found.shown()]
    return [[*cells, _counts(found), *["-"] * (len(HEAD) - len(cells) - 1)]]


def if_tuned(rows: Sequence[Row], start: str) -> float | None:
    """Accuracy at the best step after the start: what dev chose, where it may not choose the start as it is.

    None where a run that stayed at its start does not tell.
    """
    by_target: dict[str, list[float]] = {}
    for row in rows:
        if (row["start"], row["keep"]) == (start, "best"):
            if row["best_step"] == 0 and "accuracy_tuned" not in row:
                return None
            measure = "accuracy_tuned" if "accuracy_tuned" in row else PLOTTED
            by_target.setdefault(row["target"], []).append(float(row[measure]))
    return float(np.mean([np.mean(values) for values in by_target.values()]))


def step0_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each start without any tuning, the largest gain first, each over the untrained on its own targets."""
    here = [row for row in rows if row["keep"] in ("best", None)]
    lines = []
    for start, keep in dict.fromkeys((row["start"], row["keep"]) for row in here):
        over = gain(here, start, "accuracy_step0", keep, ("untrained", None))
        f1 = gain(here, start, "macro_f1_step0", keep, ("untrained", None))
        if over is not None and f1 is not None:
            shown = "-" if start == "untrained" else over.shown()
            cells = [start, str(over.targets), f"{over.mean:.3f}", f"{over.base:.3f}", shown, f"{f1.mean:.3f}"]
            lines.append((over.relative, cells))
    return [cells for _, cells in sorted(lines, key=lambda line: -line[0])]


def held_rows(rows: Sequence[Row]) -> list[list[str]]:
    """As `table_rows`, on dev rows of development targets that nothing else sees; `loss` is that at the best step."""
    lines: list[tuple[float, list[str]]] = []
    for start in dict.fromkeys(row["start"] for row in rows if row["keep"] == "best"):
        found = [gain(rows, start, f"held_{name}") for name in ("accuracy_step0", "accuracy_step60", "accuracy_best")]
        loss = gain(rows, start, "held_loss_best")
        first, middle, best = found
        if first is None or middle is None or best is None or loss is None:
            continue
        means = [f"{one.mean:.3f}" for one in (first, middle, best)] + [f"{best.base:.3f}"]
        shown = ["-", "-"] if start == SCRATCH else [middle.shown(), best.shown()]
        lines.append((best.relative, [start, str(best.targets), *means, *shown, f"{loss.mean:.3f}"]))
    return [cells for _, cells in sorted(lines, key=lambda line: -line[0])]


def keep_rows(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each way of keeping and start: over plain scratch, and over scratch tuned in the same way.

    On the targets and seeds that all of them have.
    """
    lines: list[list[str]] = []
    ways = dict.fromkeys((row["keep"], row["start"]) for row in rows if row["keep"] is not None)
    tried = {start for keep, start in ways if keep != "best"}
    there: dict[tuple[str, str], set[tuple[str, int]]] = {way: set() for way in ways if way[1] in tried}
    for row in rows:
        if (row["keep"], row["start"]) in there:
            there[row["keep"], row["start"]].add((row["target"], row["seed"]))
    shared = set.intersection(*there.values()) if there else set()
    rows = [row for row in rows if (row["target"], row["seed"]) in shared]
    for keep, start in ways:
        over = gain(rows, start, PLOTTED, keep)
        if over is None or start not in tried:
            continue
        same = None if start == SCRATCH else gain(rows, start, PLOTTED, keep, (SCRATCH, keep))
        steps = np.mean([row["steps"] for row in rows if (row["start"], row["keep"]) == (start, keep)])
        plain = "-" if (start, keep) == (SCRATCH, "best") else over.shown()
        shown = "-" if same is None else same.shown()
        lines.append([keep, start, str(over.targets), f"{over.mean:.3f}", plain, shown, f"{steps:.0f}"])
    return lines


def target_rows(rows: Sequence[Row], starts: Sequence[str], measure: str = PLOTTED) -> list[list[str]]:
    """A line for each target: means over seeds.

    A start is marked where the paired interval over test rows and seeds lies wholly below scratch, or above it; where
    a row does not say which test rows are right, where every seed is below, or above.
    """
    lines = []
    for target in dict.fromkeys(row["target"] for row in rows):
        here = [row for row in rows if row["target"] == target]
        bare = next((row["accuracy_step0"] for row in here if row["start"] == "untrained"), None)
        cells = [target, f"{here[0]['majority']:.3f}", "-" if bare is None else f"{bare:.3f}"]
        for start in (SCRATCH, *starts):
            found = pairs(here, (start, "best"), (SCRATCH, "best"), measure).get(target)
            mark = "" if found is None or start == SCRATCH else _mark(here, start, measure, found)
            cells.append("-" if found is None else f"{np.mean([o for o, _ in found]):.3f}{mark}")
        lines.append(cells)
    return lines


def _mark(rows: Sequence[Row], start: str, measure: str, found: Sequence[tuple[float, float]]) -> str:
    """Of a start on one target: an arrow down or up, or nothing."""
    right = pairs(rows, (start, "best"), (SCRATCH, "best"), measure.replace("accuracy", "right"))
    both = next(iter(right.values()), [])
    if len(both) == len(found):
        low, high = paired_interval(both)
    else:
        differences = [ours - base for ours, base in found]
        low, high = min(differences), max(differences)
    return " ↓" if high < 0 else " ↑" if low > 0 else ""


def category_rows(rows: Sequence[Row], starts: Sequence[str]) -> list[list[str]]:
    """A line for each category of targets: accuracy of scratch, and gains over it."""
    lines = []
    for category in sorted({str(row["category"]) for row in rows}):
        here = [row for row in rows if str(row["category"]) == category]
        found = [gain(here, start, PLOTTED) for start in (SCRATCH, *starts)]
        if found[0] is not None:
            shown = ["-" if one is None else f"{100 * one.relative:+.1f}%" for one in found[1:]]
            lines.append([category, str(found[0].targets), f"{found[0].base:.3f}", *shown])
    return lines


def learnable(rows: Sequence[Row]) -> list[Row]:
    """The targets on which a module learns something from all of the task's data, as `targets.json` has it."""
    return [row for row in rows if row["target"] in LEARNABLE]


def _counts(found: Gain) -> str:
    return f"{found.wins}/{found.ties}/{found.losses}"


NAMES = ("target", "method", "start", "keep", "examples", "seed")


def failures(rows: Iterable[Row]) -> list[tuple[Row, str]]:
    """Runs that failed or were refused, each with the reason; once, and not where a later try succeeded."""
    last = {tuple(str(row[name]) for name in NAMES): row for row in rows if row["stage"] == "run"}
    reasons = [(row, row.get("error") or row.get("refused")) for row in last.values()]
    return [(row, why) for row, why in reasons if why is not None]


def report(rows: Sequence[Row], folder: Path) -> None:
    """Print the tables of all rows, and draw their pictures into the folder."""
    from benchmarks.strategies.picture import draw, draw_curves

    if len(codes := {str(row.get("code")) for row in rows}) > 1:
        print(f"rows of {len(codes)} versions of the package: {', '.join(sorted(codes))}\n")
    for method, examples in groups(rows):
        here = runs(rows, method, examples)
        starts = [s for s in ("uniform", "gradient:first-order", "auto") if any(row["start"] == s for row in here)]
        print(f"## {method}, {examples} examples\n")
        print(markdown(*without_empty(HEAD, table_rows(here))), "\n")
        print(markdown(*without_empty(HEAD, table_rows(learnable(here)))), "\ntargets that can be learned\n")
        print(markdown(STEP0_HEAD, step0_rows(here)), "\n")
        if held := held_rows(here):
            print(markdown(HELD_HEAD, held), "\non dev rows that nothing else sees\n")
        print(markdown(KEEP_HEAD, keep_rows(here)), "\n")
        print(markdown((*TARGET_HEAD, *starts), target_rows(here, starts)), "\n")
        print(markdown(("category", "targets", SCRATCH, *starts), category_rows(here, starts)), "\n")
        title = f"{method}, {examples} examples"
        print(f"drawn into {draw(here, folder / f'{method}-{examples}.png', title)}")
        curves = draw_curves(here, starts, folder / f"{method}-{examples}-curves.png", title)
        print(f"and {curves}\n" if curves else "")
    for row, why in failures(rows):
        print(*(row[name] for name in NAMES), why)
