"""What a worker process of a build does: its own backbone, one thread, one job after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

    backbone: Backbone
    settings: BuildSettings
    out: Path
    tasks: Path

    @classmethod
    def load(cls, job: Job) -> Task:
        return load_task(str(cls.tasks / job.task), source="path")


def begin(settings: BuildSettings, out: Path, tasks: Path, threads: int) -> None:
    """Called once in each worker."""
    import torch

    from transfer.backbones import load_backbone

    torch.set_num_threads(threads)
    _Worker.settings, _Worker.out, _Worker.tasks = settings, out, tasks
    _Worker.backbone = load_backbone(
        settings.backbone,
        settings.kind,  # type: ignore[arg-type]
        precision=settings.precision,  # type: ignore[arg-type]
        max_length=settings.max_length,
    )


def store(job: Job) -> str:
    """Put one recorded module into the zoo, with its card and signature; the id it has there."""
    return store_source(_Worker.backbone, _Worker.load(job), job.method, _Worker.settings, Records(_Worker.out)).id


def train(job: Job) -> Record:
    """Train and record one module."""
    return train_source(_Worker.backbone, _Worker.load(job), job.method, _Worker.settings, Records(_Worker.out))
