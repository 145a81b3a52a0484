"""Training one source module and holding it against the bare backbone and the majority label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.building.records import FEWEST_DEV, Record, Records
from transfer.building.settings import BuildSettings
from transfer.cards import origin_of
from transfer.deltas import METHODS
from transfer.deltas.method import DeltaMethod
from transfer.tasks import Task
from transfer.training.measuring import Measured, measure
from transfer.training.tuning import tune
from zoo import Zoo
from zoo.starts import halved
from zoo.tensors import digest

STARTER_SEED = 0  # of the starts in the starter zoo


def train_source(backbone: Backbone, task: Task, method_name: str, settings: BuildSettings, records: Records) -> Record:
    """Train a module of `method_name` for `task` from the shared start, measure it, and record it.

    What is measured is what is stored: the tensors are rounded to fp16 first. The step is chosen by the calibrated dev
    loss, so the dev figures are a little kind; test is only measured.
    """
    method = METHODS.get(method_name)()
    start = shared_start(backbone, method, settings, records)
    train, dev, test = (backbone.encode(split, task.fields) for split in (task.train, task.dev, task.test))
    # The method's own rate, however few the examples: all modules of a zoo are trained in the same way.
    rate = settings.tune.learning_rate or method.learning_rate
    tuned = tune(
        backbone,
        method,
        train,
        tensors=start,
        settings=replace(settings.tune, learning_rate=rate),
        dev=dev,
        description=f"{task.name} {method_name}",
    )
    tensors = {name: value.half() if settings.half else value for name, value in tuned.tensors.items()}
    guess = Counter(row.label for row in train).most_common(1)[0][0]
    metrics, results = {}, {}
    with backbone.use(method, {name: value.float() for name, value in tensors.items()}):
        for name, rows in (("dev", dev), ("test", test)):
            found = measure(backbone, rows)
            metrics[name], results[name] = found.metrics(), _results(task, found)
    for name, rows in (("dev", dev), ("test", test)):
        with backbone.bare():
            bare = measure(backbone, rows)
        metrics[f"untrained_{name}"], results[f"untrained_{name}"] = bare.metrics(), _results(task, bare)
        if task.kind != "generation":
            majority = always(guess, rows)
            metrics[f"majority_{name}"] = {"accuracy": majority.accuracy, "macro_f1": majority.macro_f1}
            results[f"majority_{name}"] = majority.correct
    record = Record(
        task=task.name,
        method=method_name,
        category=task.category,
        license=task.license,
        settings=method.settings(backbone.model),
        fingerprint=backbone.fingerprint,
        metrics=metrics,
        z={
            name: paired_z(results["dev"], results[f"{name}_dev"])
            for name in ("untrained", "majority")
            if f"{name}_dev" in results
        },
        best_step=tuned.best_step,
        steps=tuned.steps,
        learning_rate=rate,
        batch_size=settings.tune.batch_size,
        seed=settings.tune.seed,
        seconds=tuned.seconds,
        sizes=task.sizes,
        source=origin_of(task),
        metric=task.metric,
        kind=task.kind,
        data_fingerprint=task.fingerprint,
        start=digest(halved(start)),
    )
    records.put(record, tensors)
    return record


def shared_start(
    backbone: Backbone, method: DeltaMethod, settings: BuildSettings, records: Records
) -> dict[str, Tensor]:
    """The start of all modules of a method: settled once in a build, whatever comes into the zoo later; in fp32.

    It is the zoo's where that has one, else the starter zoo's, else drawn: modules of one start can be merged with
    each other. Another seed asks for another start than the starter zoo's.
    """

    def first() -> dict[str, Tensor]:
        found = _start_in(Zoo(records.folder.parent), backbone, method)
        if found is None and settings.start_seed == STARTER_SEED:
            found = _start_in(Zoo.starter(), backbone, method)
        return method.draw(backbone.model, settings.start_seed) if found is None else found

    return {name: value.float() for name, value in records.start(method.method, first).items()}


def _start_in(zoo: Zoo, backbone: Backbone, method: DeltaMethod) -> dict[str, Tensor] | None:
    name = zoo.find_start(method.method, method.start_settings(backbone.model), backbone.fingerprint)
    return None if name is None else dict(zoo.get_start(name))


def _results(task: Task, found: Measured) -> np.ndarray:
    """What decides of each example, higher is better: right or wrong, or for generation the negative loss."""
    return -found.losses if task.kind == "generation" else found.correct


def always(label: int, rows: Sequence[Encoded]) -> Measured:
    """What is measured when the same choice is given every time; it has no loss."""
    labels = np.array([row.label for row in rows])
    unknown = np.full(len(rows), np.nan)
    return Measured(losses=unknown, predicted=np.full(len(rows), label), labels=labels, scores=unknown[:, None])


def paired_z(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean difference of per-example results in units of its standard error.

    0 where nothing differs, and below 8 examples: their spread is no measure of the error.

    >>> z = paired_z(np.array([1.0, 1, 1, 0] * 4), np.array([0.0, 1, 0, 0] * 4))
    >>> bool(z == 0.5 / (np.std([1, 0] * 8, ddof=1) / 4))
    True
    >>> paired_z(np.ones(2), np.zeros(2))
    0.0
    """
    difference = np.asarray(ours) - np.asarray(theirs)
    if len(difference) < FEWEST_DEV or not difference.any():
        return 0.0
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return float(difference.mean()) / error if error > 0 else math.copysign(1e9, float(difference.mean()))
