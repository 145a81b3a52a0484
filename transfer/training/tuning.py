"""One tune of one delta on one task, by the Trainer of transformers."""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.errors import ConfigError, DataError, DivergedError
from transfer.progress import track
from transfer.training.run_folder import (
    Best,
    Snapshots,
    check_same_run,
    checkpoint_tensors,
    copied,
    digest_of_rows,
    digest_of_tensors,
    forget,
    last_checkpoint,
)
from transfer.training.settings import TuneSettings
from transfer.training.trainer import Pull, best_row, history_of, make_trainer, out_of_patience


@dataclass(frozen=True)
class Tuned:
    """A tuned delta and how it went.

    `history` has a row per measurement on dev: {"step", "loss", "calibrated", "accuracy"}; step 0 is the start itself.
    With dev, `best_step` is the step with the lowest calibrated loss (`transfer.training.calibrating`), which may be 0;
    unless `keep="last"` was asked for, `tensors` are of that step. `steps` is how far the tune went, `seconds` what
    this call took.
    """

    tensors: dict[str, Tensor]
    history: list[dict[str, float]]
    best_step: int
    steps: int
    seconds: float
    settings: TuneSettings = field(repr=False)


@contextlib.contextmanager
def gradients_on() -> Iterator[None]:
    """Inside the block, or a function so marked, gradients are computed, also where the caller has turned them off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@gradients_on()
def tune(
    backbone: Backbone,
    method: Any,
    train: Sequence[Encoded],
    *,
    tensors: Mapping[str, Tensor],
    settings: TuneSettings | None = None,
    dev: Sequence[Encoded] | None = None,
    keep: str = "best",
    pull: float = 0.0,
    snapshots: Snapshots | None = None,
    folder: Path | str | None = None,
    description: str = "tuning",
) -> Tuned:
    """Tune a delta from `tensors` on encoded training examples.

    Args:
        backbone: Left as it was found: what is attached now comes back afterwards.
        method: A `DeltaMethod`, such as `LoRA()`.
        train: Encoded examples with labels.
        tensors: The start, by canonical name.
        settings: Steps, learning rate, batch size, seed.
        dev: Encoded examples to measure on; without them the last step is kept.
        keep: "best" keeps the step with the lowest calibrated dev loss, "last" the last step.
        pull: Of the start: pull / 2 times the squared distance from `tensors` is a part of the loss (L2-SP).
        snapshots: Keeps copies of the delta on the way.
        folder: Where checkpoints go. A run that was killed goes on from the last one when called again with the
            same folder and arguments, and ends where it would have; one that is finished gives its result again.
            None keeps nothing.
        description: Of the progress bar.
    Raises:
        DataError: there is nothing to train on, or a row has no label.
        BackboneError: the Trainer of transformers does not work on the backbone's device.
        ConfigError: the folder holds another run or is none, or a reparameterised prefix is to be resumed.
        DivergedError: the tensors are no longer finite.
        DeltaError: the tensors do not fit the method on this backbone.
    """
    if keep not in ("best", "last"):
        raise ConfigError(f"keep must be 'best' or 'last', got {keep!r}")
    if not (pull >= 0 and math.isfinite(pull)):
        raise ConfigError(f"pull must be at least 0, got {pull}")
    settings = settings or TuneSettings()
    folder = None if folder is None else Path(folder)
    if not train:
        raise DataError("there are no training examples", hint="a task with a train split, or a larger --examples")
    if folder is not None and getattr(method, "reparameterisation", None):
        raise ConfigError(
            "a reparameterised prefix cannot go on after a kill: its checkpoints hold the folded prefix only",
            hint="folder=None, or Prefix() without reparameterisation",
        )
    dev = dev or None
    check_labels(train, dev)
    begun = time.perf_counter()
    rate = settings.rate(method)
    best = Best(folder) if dev is not None and keep == "best" else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_state_kept())
        attached = stack.enter_context(backbone.use(method, tensors))
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transfer-tune-")))
        last = None
        if folder is not None:
            check_same_run(folder, _run(backbone, method, train, tensors, settings, dev, keep, pull))
            last = last_checkpoint(folder)
        if last is not None and best is not None:
            best.read()
        if last is not None and _finished(last[1], settings):
            attached.load_state_dict(checkpoint_tensors(last[0]))
            state = last[1]
        else:
            report = stack.enter_context(track(description, settings.steps))
            stack.enter_context(warnings_quiet())
            trainer = make_trainer(
                backbone,
                rate,
                train,
                dev,
                settings,
                where,
                best=best,
                pull=Pull(attached, tensors, pull) if pull else None,
                snapshots=snapshots,
                checkpoints=folder is not None,
                fresh=last is None,
                report=report,
            )
            trainer.train(resume_from_checkpoint=None if last is None else str(last[0]))
            state = trainer.state
        result = copied(attached.state_dict())
    history = history_of(state)
    step = int(state.global_step)
    if best is not None:
        result, step = best.tensors, best.step
    elif history:
        step = int(history[best_row(history)]["step"])
    if not result or not all(bool(torch.isfinite(value).all()) for value in result.values()):
        if folder is not None:
            forget(folder)  # nothing can go on from here, and the next try must not
        raise DivergedError("the tune diverged: a tensor is no longer finite", hint="a smaller learning rate")
    return Tuned(
        tensors=result,
        history=history,
        best_step=step,
        steps=int(state.global_step),
        seconds=time.perf_counter() - begun,
        settings=settings,
    )


def check_labels(train: Sequence[Encoded], dev: Sequence[Encoded] | None) -> None:
    """Refuse examples that cannot be trained on or measured.

    Raises:
        DataError: a row has no label among its choices.
    """
    for name, rows in (("training", train), ("dev", dev or ())):
        if any(not 0 <= row.label < len(row.choices) for row in rows):
            raise DataError(f"a {name} example has no label among its choices", hint="give every row its label")


def _run(
    backbone: Backbone,
    method: Any,
    train: Sequence[Encoded],
    tensors: Mapping[str, Tensor],
    settings: TuneSettings,
    dev: Sequence[Encoded] | None,
    keep: str,
    pull: float,
) -> dict[str, Any]:
    """What decides how a run goes."""
    return {
        **({"pull": pull} if pull else {}),
        "backbone": backbone.fingerprint,
        "precision": backbone.precision,
        "method": {"name": method.method, **method.settings()},
        "start": digest_of_tensors(tensors),
        "settings": settings.__dict__,
        "train": digest_of_rows(train),
        "dev": digest_of_rows(dev),
        "keep": keep,
    }


def _finished(state: Any, settings: TuneSettings) -> bool:
    """The Trainer would train a step more when it resumes a run that has come to its end."""
    return state.global_step >= settings.steps or out_of_patience(history_of(state), settings.patience)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """The Trainer seeds every global generator; the caller's streams go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def warnings_quiet() -> Iterator[None]:
    """Hide what the Trainer says about itself; errors are raised as ever."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
