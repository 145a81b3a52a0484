"""keep_start: run a way of keeping and choose among its candidates, on dev or by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from transfer.backbones.encoding import Encoded
from transfer.errors import ConfigError, DataError, DivergedError
from transfer.keeping import KEEPS
from transfer.keeping.keep import Keep, Tensors, Trial
from transfer.keeping.work import Work
from transfer.training.run_folder import check_same_run, digest_of_rows, digest_of_tensors, kept_unless_diverged
from transfer.training.tuning import check_labels, gradients_on


@dataclass(frozen=True)
class Kept:
    """What was chosen.

    Args:
        tensors: The delta.
        chosen: Label of the candidate.
        about: Plain JSON for the card: name, chosen, candidates with their losses, folds, steps, seconds.
        history: Rows on dev along the run; with folds empty.
        steps: Training steps in all, those of folds among them.
        seconds: In all.
    """

    tensors: Tensors = field(repr=False)
    chosen: str
    about: dict[str, Any]
    history: list[dict[str, float]]
    steps: int
    seconds: float


def check_keep(keep: str, n_train: int, n_dev: int, folds: int | None, others: int = 0, method: Any = None) -> None:
    """Refuse what a way of keeping does not take, before any work.

    Args:
        keep: Name in `KEEPS`.
        n_train, n_dev: Examples of the target.
        folds: Of cross-validation, or None.
        others: Number of further starts.
        method: Of the start.
    Raises:
        UnknownNameError: no such way. ConfigError: names what excludes each other.
    """
    kind: type[Keep] = KEEPS.get(keep)
    if folds is not None:
        if not kind.folds:
            able = ", ".join(name for name in KEEPS.names() if KEEPS.get(name).folds)
            raise ConfigError(f"keep {keep!r} has nothing that folds could choose", hint=f"with folds: {able}")
        if not 2 <= folds <= n_train + n_dev:
            raise ConfigError(f"folds must lie between 2 and the {n_train + n_dev} examples, got {folds}")
    elif kind.chooses and not n_dev and keep != "best":
        hint = "--folds 5 chooses by cross-validation" if kind.folds else "--keep soup"
        raise ConfigError(f"keep {keep!r} chooses on dev, and the target has no dev examples", hint=hint)
    if others and not kind.starts:
        raise ConfigError(f"keep {keep!r} takes one start, got {others + 1}", hint="--keep soup or greedy-soup")
    if kind.sources and not kind.optional and getattr(method, "reparameterisation", None):
        raise ConfigError(f"keep {keep!r} takes a prefix as it is stored", hint="Prefix() without reparameterisation")


@gradients_on()
def keep_start(
    work: Work, keep: str, train: Sequence[Encoded], dev: Sequence[Encoded] | None, folds: int | None = None
) -> Kept:
    """Tune from the work's start in a way that may keep what the start knows.

    Args:
        work: What is tuned and how.
        keep: Name in `KEEPS`.
        train, dev: Encoded examples of the target.
        folds: Choose by cross-validation over train and dev together, then train on all of them.
    Raises:
        UnknownNameError, ConfigError: as `check_keep`; also where the folder holds another run.
        DataError: there are no training examples, or a row has no label.
        DivergedError: a tune ended in numbers that are not finite, or no candidate has a finite loss.
    """
    if not train:
        raise DataError("there are no training examples", hint="a task with a train split, or a larger --examples")
    check_labels(train, dev)
    check_keep(keep, len(train), len(dev or ()), folds, len(work.others), work.method)
    if work.folder is None:
        return _kept(work, keep, train, dev, folds)
    check_same_run(work.folder, _run(work, keep, train, dev, folds))
    work = replace(work, folders=[work.folder])
    with kept_unless_diverged(work.folders):
        return _kept(work, keep, train, dev, folds)


def _kept(work: Work, keep: str, train: Sequence[Encoded], dev: Sequence[Encoded] | None, folds: int | None) -> Kept:
    way: Keep = KEEPS.get(keep)()
    if folds is None:
        trial = way.trial(work, train, dev or None, "tune")
        losses, steps, seconds, history = trial.losses, trial.steps, trial.seconds, trial.history
        chosen = _lowest(losses) if losses else list(trial.tensors)[-1]
    else:
        rows = [*train, *(dev or ())]
        work = replace(work, settings=replace(work.settings, patience=None))  # every fold has every step
        trials = [
            way.trial(work, [rows[i] for i in inside], [rows[i] for i in outside], f"fold-{number}")
            for number, (inside, outside) in enumerate(split(rows, folds, work.settings.seed), 1)
        ]
        losses = _means(trials)
        chosen = _lowest(losses)
        trial = way.trial(replace(work, keep=way.narrowed(work.keep, chosen)), rows, None, "all")
        steps = trial.steps + sum(other.steps for other in trials)
        seconds = trial.seconds + sum(other.seconds for other in trials)
        history = []
    tensors = trial.tensors[chosen]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise DivergedError("the tune diverged: a tensor is no longer finite", hint="a smaller learning rate")
    about = {
        "name": keep,
        "chosen": chosen,
        "candidates": {label: loss if np.isfinite(loss) else None for label, loss in losses.items()},
        "folds": folds,
        "steps": steps,
        "seconds": round(seconds, 3),
        **trial.notes,
    }
    return Kept(tensors, chosen, about, history, steps, seconds)


def split(rows: Sequence[Encoded], folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """(indices to train on, indices held out) of each fold; every row is held out once, labels are spread evenly."""
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(rows))]
    order.sort(key=lambda index: rows[index].label)
    return [
        (sorted(i for place, i in enumerate(order) if place % folds != fold), sorted(order[fold::folds]))
        for fold in range(folds)
    ]


def _means(trials: Sequence[Trial]) -> dict[str, float]:
    """Mean loss of each candidate over the folds; only of those that every fold has."""
    labels = [label for label in trials[0].losses if all(label in trial.losses for trial in trials)]
    return {label: float(np.mean([trial.losses[label] for trial in trials])) for label in labels}


def _lowest(losses: dict[str, float]) -> str:
    """The label of the lowest loss, the first of equal ones."""
    finite = {label: loss for label, loss in losses.items() if np.isfinite(loss)}
    if not finite:
        raise DivergedError("the tune diverged: no loss is finite", hint="a smaller learning rate")
    return min(finite, key=lambda label: finite[label])


def _run(
    work: Work, keep: str, train: Sequence[Encoded], dev: Sequence[Encoded] | None, folds: int | None
) -> dict[str, Any]:
    """What decides how a run goes."""
    return {
        "keep": keep,
        "folds": folds,
        "keep settings": work.keep.__dict__,
        "backbone": work.backbone.fingerprint,
        "precision": work.backbone.precision,
        "method": {"name": work.method.method, **work.method.settings()},
        "start": digest_of_tensors(work.start),
        "others": [digest_of_tensors(other.tensors) for other in work.others],
        "sources": [module.id for module in work.sources],
        "settings": work.settings.__dict__,
        "train": digest_of_rows(train),
        "dev": digest_of_rows(dev),
    }
