"""The report of a build: what was kept, what was left out and why."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from transfer.building.records import Built, Record
from transfer.building.settings import BuildSettings

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
    """Write it beside the modules."""
    path = out / FILE
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summarize(built, settings), indent=1) + "\n", encoding="utf-8")
    return path
