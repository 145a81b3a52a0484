"""Tasks: where labelled text comes from, and the one shape that everything else takes it in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Task": "task",
        "TaskRow": "listing",
        "list_tasks": "listing",
        "load_rows": "unlabelled",
        "load_task": "load",
        "find_fields": "fields",
        "split_fields": "fields",
    },
)

if TYPE_CHECKING:
    from transfer.tasks.fields import find_fields, split_fields
    from transfer.tasks.listing import TaskRow, list_tasks
    from transfer.tasks.load import load_task
    from transfer.tasks.task import Task
    from transfer.tasks.unlabelled import load_rows

__all__ = ["Task", "TaskRow", "find_fields", "list_tasks", "load_rows", "load_task", "split_fields"]
