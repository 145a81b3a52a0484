"""From a recorded module to a module of the zoo, with card and signature."""

from __future__ import annotations

from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.building.records import Record, Records
from transfer.building.settings import BuildSettings
from transfer.building.source import shared_start
from transfer.cards import data_of, versions
from transfer.deltas import METHODS
from transfer.errors import DataError
from transfer.similarity.signatures import module_signature, task_signature
from transfer.tasks import Task
from zoo import Card, Module, Zoo
from zoo.starts import halved, start_name
from zoo.tensors import digest


def store_source(backbone: Backbone, task: Task, method_name: str, settings: BuildSettings, records: Records) -> Module:
    """Add a recorded module to the zoo; nothing happens if one trained on the same data is there.

    Raises:
        DataError: it was never trained, or from another start than the build has now.
    """
    record = records.get(task.name, method_name)
    if record is None:
        raise DataError(f"there is no record of {task.name} {method_name}", hint="transfer zoo build trains it")
    zoo = Zoo(records.folder.parent)
    siblings = [
        module
        for module in zoo.find(task=task.name, fingerprint=backbone.fingerprint)
        if module.card.data.get("fingerprint") == record.data_fingerprint
    ]
    there = next((module for module in siblings if module.card.method == method_name), None)
    if there is not None:
        return there
    method = METHODS.get(method_name).from_settings(record.settings)
    start = shared_start(backbone, method, settings, records)
    if record.start is not None and record.start != digest(halved(start)):
        raise DataError(
            f"{task.name} {method_name} was trained from another start than {records.folder} holds",
            hint=f"delete {task.name}+{method_name}.json there: the build then trains it again",
        )
    name = start_name(method_name, method.start_settings(backbone.model), backbone.fingerprint)
    tensors = records.tensors(task.name, method_name)
    card = _card(record, task, backbone, name)
    encoded = backbone.encode(task.train, task.fields)
    own = module_signature(backbone, encoded, method, {n: t.float() for n, t in tensors.items()}, start)
    known = next((part for module in siblings if (part := module.signature.task_part())), None)
    module = Module.new(card, tensors, (known or task_signature(backbone, task)).merge(own))
    if module.id in zoo:  # the same tensors under a card of other data, where only what they were measured on changed
        zoo.remove(module.id)
    return zoo.add(module, start)  # beside another start of that name, if one came into the zoo meanwhile


def _card(record: Record, task: Task, backbone: Backbone, start: str) -> Card:
    nested: dict[str, Any] = {"dev": record.metrics["dev"], "test": record.metrics["test"]}
    for baseline in record.z:
        nested[baseline] = {split: record.metrics[f"{baseline}_{split}"] for split in ("dev", "test")}
    nested["z"] = record.z
    return Card(
        task=task.name,
        category=task.category,
        method=record.method,
        settings=record.settings,
        backbone=backbone.said_name,
        fingerprint=record.fingerprint,
        metrics=nested,
        data=data_of(task),
        license=task.license,
        seed=record.seed,
        start=start,
        steps=record.steps,
        max_length=backbone.max_length,
        provenance={
            **versions(),
            "base_model": backbone.base_model,
            "kind": backbone.kind,
            "learning_rate": record.learning_rate,
            "batch_size": record.batch_size,
            "best_step": record.best_step,
            "seconds": round(record.seconds, 1),
        },
    )
