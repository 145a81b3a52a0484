"""Which of the trained modules go into the zoo."""

from __future__ import annotations

from collections.abc import Collection

from transfer.building.records import Built, Record
from transfer.building.settings import BuildSettings
from transfer.building.work import Job


def choose(built: Built, settings: BuildSettings, held: Collection[str] = ()) -> list[Job]:
    """The modules to store, by method in the order of the settings; why another is not goes into `built.left_out`.

    `most_tasks` bounds the tasks of all methods together. A task counts once and stands for its clearest module that
    passes; all its modules that pass are kept with it.

    Args:
        built: With the records of all methods.
        settings: The rule.
        held: Tasks that the zoo has modules of already: they count and come first, since nothing is taken out.
    """
    passing: list[Record] = []
    clearest: dict[str, float] = {}
    for record in built.records:
        if (reason := record.reason(settings.criterion)) is not None:
            built.left_out[f"{record.task} {record.method}"] = reason
            continue
        passing.append(record)
        clearest[record.task] = max(record.clearness, clearest.get(record.task, record.clearness))
    ranked = sorted(clearest, key=lambda task: (task not in held, -clearest[task], task))
    chosen = set(ranked[: settings.most_tasks])
    kept = []
    for record in sorted(passing, key=lambda record: (settings.methods.index(record.method), -record.clearness)):
        if record.task in chosen:
            kept.append(Job(record.task, record.method))
        else:
            built.left_out[f"{record.task} {record.method}"] = f"{settings.most_tasks} other tasks are kept before it"
    return kept
