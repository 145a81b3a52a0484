"""What the card of a module says of its data, its training and what it was made with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas.delta import Delta
from transfer.evaluation import Evaluation
from transfer.tasks import Task
from transfer.training.tuning import Tuned
from zoo import Card, Module


def module_of(
    task: Task,
    backbone: Backbone,
    delta: Delta,
    tuned: Tuned,
    after: Evaluation,
    named: str,
    shared: Mapping[str, Tensor] | None,
    add_to: Any,
    kept: Mapping[str, Any],
    factor: float | None,
) -> Module:
    """The result with its card; added to a zoo with its signature when there is one to add to."""
    from transfer.similarity.signatures import module_signature, task_signature

    settings = delta.method.settings(backbone.model)
    signature = None
    if add_to is not None:
        encoded = backbone.encode(task.train, task.fields)
        signature = task_signature(backbone, task).merge(
            module_signature(backbone, encoded, delta.method, delta.tensors, shared)
        )
    candidates = kept.get("candidates")
    best = next((row for row in tuned.history if row["step"] == tuned.best_step), None)
    metrics: dict[str, Any] = {after.split: after.metrics}
    if candidates is not None:  # what was chosen need be no step of one tune; with folds its loss is not dev's
        if kept["folds"] is None and candidates.get(kept["chosen"]) is not None:
            metrics["dev"] = {"calibrated": candidates[kept["chosen"]]}
    elif best is not None:
        metrics["dev"] = {name: value for name, value in best.items() if name != "step"}
    if factor is not None:
        metrics.setdefault("dev", {})["factor"] = factor
    card = Card(
        task=task.name,
        category=task.category,
        method=delta.method.method,
        settings=settings,
        backbone=backbone.said_name,
        fingerprint=backbone.fingerprint,
        metrics=metrics,
        data=data_of(task),
        license=task.license,
        seed=tuned.settings.seed,
        steps=tuned.steps,
        max_length=backbone.max_length,
        provenance={
            **versions(),
            "base_model": backbone.base_model,
            "kind": backbone.kind,
            "started_from": taken_from(named, kept),
            "best_step": tuned.best_step,
            "keep": dict(kept),
        },
    )
    # The start goes with it even where no zoo holds it yet: saved, trained on or added later, it stays known.
    module = Module.new(card, delta.tensors, signature, shared)
    return add_to.add(module) if add_to is not None else module


def data_of(task: Task) -> dict[str, Any]:
    """What a card says of the data."""
    return {
        "source": origin_of(task),
        "kind": task.kind,
        "metric": task.metric,
        "sizes": task.sizes,
        "examples": task.examples,
        "fields": list(task.fields),
        "template": task.template,
        "choices": task.labels,
        "fingerprint": task.fingerprint,
    }


def origin_of(task: Task) -> str:
    """Where the data is from, in the words of its own `task.json` or the catalogue; never a path of this machine."""
    if task.provenance:
        return task.provenance
    return task.name if task.origin == "path" else f"{task.origin}: {task.name}"


def versions() -> dict[str, str]:
    """The versions that decide what training gives."""
    from importlib.metadata import version

    return {
        "transfer": version("transfer-zoo"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }


def taken_from(start: str, kept: Mapping[str, Any]) -> str:
    """Where a result comes from: the start, or of a soup the starts that are in it."""
    names = ingredients(start, kept)
    if "taken" in kept:
        names = [start if name == "start" else name for name in kept["taken"]]
    if not names or names[0].startswith("order "):  # one start in several orders of data
        return start
    return ", ".join(names)


def ingredients(start: str, kept: Mapping[str, Any]) -> list[str]:
    """Names of what a soup was made from; none for other ways of keeping."""
    names = [row["name"] for row in kept.get("ingredients", ())]
    return [start if name == "start" else name for name in names]
