"""guard: a short tune from an initialization and one from scratch, compared on the target's dev examples."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.method import DeltaMethod
from transfer.ensembling.verdict import Verdict, compare
from transfer.errors import DivergedError
from transfer.training.measuring import Measured, measure
from transfer.training.settings import TuneSettings
from transfer.training.tuning import Tuned, tune

STEPS = 20
BATCH_SIZE = 16


def guard(
    backbone: Backbone,
    method: DeltaMethod,
    train: Sequence[Encoded],
    dev: Sequence[Encoded],
    *,
    start: Mapping[str, Tensor],
    scratch: Mapping[str, Tensor],
    scratch_tune: Tuned | None = None,
    start_method: DeltaMethod | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    licences: Sequence[str] = (),
    curve_every: int | None = None,
) -> Verdict:
    """Say whether an initialization helps: whether the calibrated dev loss after a short tune is surely the lower.

    Both tunes see the same examples in the same order, at the method's own learning rate, and the last step counts.
    "Surely" is a paired t interval (90%) over dev examples; it does not cover what other draws of training examples
    would give. Where the tune from the initialization diverges, it hurts: scratch can be tuned, this cannot.

    Args:
        backbone: Left as it was found.
        method: Of the delta.
        train: Encoded training examples of the target.
        dev: Encoded dev examples; without any nothing is tuned and the verdict is "unclear".
        start: The initialization, by canonical name.
        scratch: The shared start.
        scratch_tune: The tune from `scratch`, if it was made already: then its settings are used for both.
        start_method: Of the initialization, where it has other settings than scratch (a merge of another rank).
        steps, batch_size, seed: Of both tunes.
        licences: Of the merged sources; the verdict names them.
        curve_every: Measure dev along both tunes, every so many steps, for `Verdict.curves`; None measures the ends.
    Raises:
        DataError: there are no training examples.
        ConfigError: a setting is outside its range.
        DivergedError: the tune from scratch diverged, so there is nothing to hold the other against.
    """
    begun = time.perf_counter()
    settings = TuneSettings(steps=steps, batch_size=batch_size, seed=seed, eval_every=curve_every)
    if scratch_tune is not None:
        settings = replace(scratch_tune.settings, eval_every=curve_every)
    if not dev:
        return Verdict(outcome="unclear", steps=settings.steps, n_dev=0, licences=tuple(licences))
    along = None if curve_every is None else dev

    def tuned_from(tensors: Mapping[str, Tensor], what: str, own: DeltaMethod) -> Tuned:
        description = f"tuning from {what}"
        return tune(
            backbone, own, train, tensors=tensors, settings=settings, dev=along, keep="last", description=description
        )

    if scratch_tune is None or (along is not None and not scratch_tune.history):
        scratch_tune = tuned_from(scratch, "scratch", method)
    theirs = _measured(backbone, method, scratch_tune, dev)
    try:
        own = start_method or method
        tuned = tuned_from(start, "the initialization", own)
        ours = _measured(backbone, own, tuned, dev)
    except DivergedError:
        return Verdict(
            outcome="hurts",
            diverged=True,
            steps=settings.steps,
            n_dev=len(dev),
            licences=tuple(licences),
            seconds=time.perf_counter() - begun,
        )
    return Verdict(
        **compare(ours.calibrated_losses, theirs.calibrated_losses),
        steps=settings.steps,
        n_dev=len(dev),
        losses={"initialization": ours.calibrated_loss, "scratch": theirs.calibrated_loss},
        accuracies={"initialization": ours.accuracy, "scratch": theirs.accuracy},
        curves={"initialization": tuned.history, "scratch": scratch_tune.history} if along is not None else None,
        licences=tuple(licences),
        seconds=time.perf_counter() - begun,
    )


def _measured(backbone: Backbone, method: DeltaMethod, tuned: Tuned, dev: Sequence[Encoded]) -> Measured:
    """Losses on dev; DivergedError where one is not finite, which finite tensors that are too large give."""
    with backbone.use(method, tuned.tensors):
        found = measure(backbone, dev)
    if not np.isfinite(found.losses).all():
        raise DivergedError("the tune diverged: a dev loss is no longer finite", hint="a smaller learning rate")
    return found
