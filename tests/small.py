"""A small zoo on a tiny backbone, and targets for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
from datasets import Dataset

from transfer.deltas import METHODS
from transfer.similarity.signatures import module_signature, task_signature
from transfer.tasks import Task
from transfer.training import TuneSettings, tune
from zoo import Card, Module, Zoo

SOURCES = {"films": "CC BY 4.0", "hotels": "MIT", "kettles": "CC0"}


def toy_target(n: int = 24, dev: int = 16, name: str = "toy", **changes: Any) -> Task:
    """A sentiment task of made-up rows."""
    splits = {
        "train": Dataset.from_list(tiny.sentiment_rows(n, 50)),
        "dev": Dataset.from_list(tiny.sentiment_rows(dev, 51) or []),
        "test": Dataset.from_list(tiny.sentiment_rows(16, 52)),
    }
    return Task(**{"name": name, "kind": "classification", "category": "sentiment", **splits, **changes})


def trained_module(backbone: Any, method: Any, task: Task, start: Any, steps: int, start_name: str | None) -> Module:
    """A module tuned for a few steps, with card and signature."""
    encoded = backbone.encode(task.train, task.fields)
    tuned = tune(backbone, method, encoded, tensors=start, settings=TuneSettings(steps=steps))
    signature = task_signature(backbone, task).merge(module_signature(backbone, encoded, method, tuned.tensors, start))
    card = Card(
        task=task.name,
        category=task.category,
        method=method.method,
        settings=method.settings(backbone.model),
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        license=task.license,
        start=start_name,
    )
    return Module.new(card, tuned.tensors, signature)


def make_zoo(backbone: Any, name: str, folder: Path) -> Zoo:
    """A zoo of three modules of a method, tuned for a few steps from one start."""
    method, zoo = METHODS.get(name)(), Zoo(folder)
    start = method.draw(backbone.model)
    named = zoo.add_start(name, method.start_settings(backbone.model), backbone.fingerprint, start)
    for number, (task_name, licence) in enumerate(SOURCES.items()):
        rows = Dataset.from_list(tiny.sentiment_rows(16, number))
        facts = {"kind": "classification", "category": "sentiment", "license": licence}
        task = Task(name=task_name, **facts, train=rows, dev=rows, test=rows)
        zoo.add(trained_module(backbone, method, task, start, 3 + number, named))
    return zoo
