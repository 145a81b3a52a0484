"""The report of a build: what was kept, what was left out and why."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from transfer.building.records import Built, Record
from transfer.building.settings import BuildSettings
from zoo import Zoo
from zoo.files import write_whole

FILE = "build.json"


def summarize(built: Built, settings: BuildSettings) -> dict[str, Any]:
    """Everything a reader of the zoo may ask of its making, as JSON."""
    passing: dict[str, set[str]] = defaultdict(set)
    for record in built.records:
        if f"{record.task} {record.method}" not in built.left_out:
            passing[record.category].add(record.task)
    return {
        "rule": f"kept when better than the untrained backbone and the majority label on dev by more than "
        f"{settings.criterion} paired standard errors of accuracy",
        "tune": settings.tune.__dict__,
        "max_length": settings.max_length,
        "kept": sorted(built.kept),
        "left_out": dict(sorted(built.left_out.items())),
        "empty_categories": sorted({*built.categories.values(), *(r.category for r in built.records)} - set(passing)),
        "results": [
            {
                "task": record.task,
                "method": record.method,
                "category": record.category,
                "kept": f"{record.task} {record.method}" not in built.left_out,
                **_figures(record),
                "z": {name: round(value, 2) for name, value in record.z.items()},
                "seconds": round(record.seconds, 1),
            }
            for record in built.records
        ],
    }


def _figures(record: Record) -> dict[str, float]:
    """test_accuracy, untrained_test_accuracy, majority_test_accuracy; or loss in the place of accuracy."""
    name = f"test_{record.judged_by}"
    found = {key: round(value, 4) for key, value in record.on("test").items()}
    return {name if key == "module" else f"{key}_{name}": value for key, value in found.items()}


def write_report(built: Built, settings: BuildSettings, out: Path) -> Path:
    """Write it beside the modules, with what an earlier one says of tasks and methods that this one leaves out."""
    path = out / FILE
    report = summarize(built, settings)
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if isinstance(before, dict):
        asked = {(task, method) for task in built.categories for method in settings.methods}
        report = _joined(report, before, asked, {module.id for module in Zoo(out)})
    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())
    return path


def _joined(
    report: dict[str, Any], before: dict[str, Any], asked: set[tuple[str, str]], there: set[str]
) -> dict[str, Any]:
    """The report with the lines of the one before it about what was not asked for now: task and method.

    `there` are the ids in the zoo.
    """
    tasks, gone = {task for task, _ in asked}, report["left_out"]
    others = [row for row in before.get("results", []) if (row["task"], row["method"]) not in asked]
    results = [*report["results"], *(row for row in others if row["task"] not in gone)]
    kept = {*report["kept"], *(set(before.get("kept", [])) & there)}
    left = {}
    for name, why in before.get("left_out", {}).items():
        task, _, method = name.partition(" ")
        if (task, method) not in asked and (method or task not in tasks):
            left[name] = why
    passing = {row["category"] for row in results if row["kept"]}
    empty = {*report["empty_categories"], *before.get("empty_categories", [])} - passing
    return report | {
        "kept": sorted(kept),
        "left_out": dict(sorted({**left, **report["left_out"]}.items())),
        "empty_categories": sorted(empty),
        "results": results,
    }
