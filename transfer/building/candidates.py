"""Which tasks a build can take, and why it does not take the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from transfer.building.licences import forbids_commercial_use
from transfer.building.records import Built
from transfer.building.settings import BuildSettings
from transfer.errors import DataError
from transfer.tasks.facts import Facts


def candidates(folder: Path, only: Sequence[str] | None, settings: BuildSettings) -> tuple[list[str], Built]:
    """Names of the tasks to train on, the quick ones first; the categories of all, and why the others are left out.

    Raises:
        DataError: there is no task, or none of a name in `only`.
    """
    built = Built()
    there = sorted({path.parent.name for pattern in ("*/task.json", "*/train.*") for path in folder.glob(pattern)})
    if not there:
        raise DataError(f"no task folder under {folder}", hint="a folder for each task with train.jsonl and task.json")
    unknown = sorted(set(only or ()) - set(there))
    if unknown:
        raise DataError(f"no task {unknown[0]!r} under {folder}", found=", ".join(there))
    names = []
    for name in there if only is None else dict.fromkeys(only):
        try:
            facts = Facts.read(folder / name)
        except DataError as error:
            built.leave_out(name, error)
            continue
        licence = facts.license or "unknown"
        built.categories[name] = facts.category or "other"
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            built.left_out[name] = "the folder's name has more than small letters, digits and _ . -"
        elif settings.commercial and forbids_commercial_use(licence):
            built.left_out[name] = f"its licence forbids commercial use: {licence}"
        else:
            names.append(name)
    names.sort(key=lambda name: _row_bytes(folder / name / "train.jsonl"))
    return names, built


def _row_bytes(path: Path) -> float:
    """Mean length of a training row, which decides how long a module takes."""
    if not path.is_file():
        return 0.0
    with path.open("rb") as file:
        rows = sum(1 for _ in file)
    return path.stat().st_size / max(rows, 1)
