"""What a worker process of a build does: its own backbone, its share of the threads, one job after the other."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.building.records import Record, Records
from transfer.building.settings import BuildSettings
from transfer.building.source import train_source
from transfer.building.storing import store_source
from transfer.tasks import Task, load_task


@dataclass(frozen=True)
class Job:
    """One module to train."""

    task: str
    method: str


class _Worker:
    """The state of this process."""

    settings: BuildSettings
    out: Path
    tasks: Path
    backbone: Backbone | None = None

    @classmethod
    def ready(cls) -> Backbone:
        """The backbone, loaded by the first job: an error while a worker begins would not be told."""
        if cls.backbone is None:
            from transfer.backbones import load_backbone

            cls.backbone = load_backbone(
                cls.settings.backbone,
                cls.settings.kind,  # type: ignore[arg-type]
                precision=cls.settings.precision,  # type: ignore[arg-type]
                max_length=cls.settings.max_length,
            )
        return cls.backbone

    @classmethod
    def load(cls, task: str) -> Task:
        return dataclasses.replace(load_task(str(cls.tasks / task), source="path"), name=task)


def begin(settings: BuildSettings, out: Path, tasks: Path, threads: int) -> None:
    """Called once in each worker."""
    import torch

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    torch.set_num_threads(threads)
    _Worker.settings, _Worker.out, _Worker.tasks = settings, out, tasks


def _end_with(parent: Any) -> None:
    """A worker whose parent was killed would finish its jobs, then wait for ever and hold its memory."""
    parent.join()
    os._exit(1)


def check() -> None:
    """Load the backbone, and see that the folder has no build that this one cannot go on with."""
    backbone, settings = _Worker.ready(), _Worker.settings
    Records(_Worker.out).check_same_build(
        {"backbone": backbone.fingerprint, "max_length": backbone.max_length, "start_seed": settings.start_seed},
        {**dataclasses.asdict(settings.tune), "half": settings.half, "precision": backbone.precision},
        {**dataclasses.asdict(BuildSettings().tune), "half": BuildSettings().half},
    )


def data_fingerprint(task: str) -> str:
    """Fingerprint of the task's data as it is now."""
    return _Worker.load(task).fingerprint


def store(job: Job) -> str:
    """Put one recorded module into the zoo, with its card and signature; the id it has there."""
    return store_source(_Worker.ready(), _Worker.load(job.task), job.method, _Worker.settings, Records(_Worker.out)).id


def train(job: Job) -> Record:
    """Train and record one module."""
    return train_source(_Worker.ready(), _Worker.load(job.task), job.method, _Worker.settings, Records(_Worker.out))
