"""The sparsifying scheduler: a SoRA is trained with all its gates, then again at each xi of a schedule, from the last.

Source: Ding et al. 2023, aclanthology.org/2023.emnlp-main.252, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.delta import Delta
from transfer.deltas.ranks import Ranks, ranks_of
from transfer.deltas.sora import SoRA
from transfer.errors import ConfigError
from transfer.training.measuring import Measured, measure
from transfer.training.run_folder import kept_unless_diverged
from transfer.training.schedules import XiSchedule
from transfer.training.settings import TuneSettings
from transfer.training.tuning import Tuned, tune


@dataclass(frozen=True)
class Stage:
    """A SoRA at the end of its training at one xi.

    `train` and `dev` are metrics there. `memorisation` and `generalisation` are the accuracy on train and on dev in
    percent of that of the first stage, which has all gates; None where there is nothing to choose or it is zero.
    """

    xi: float
    tuned: Tuned = field(repr=False)
    ranks: Ranks = field(repr=False)
    train: Mapping[str, float]
    dev: Mapping[str, float]
    memorisation: float | None
    generalisation: float | None

    def to_json(self) -> dict[str, Any]:
        """All but tensors and history."""
        return {
            "xi": self.xi,
            "steps": self.tuned.steps,
            "seconds": self.tuned.seconds,
            "train": dict(self.train),
            "dev": dict(self.dev),
            "memorisation": self.memorisation,
            "generalisation": self.generalisation,
            **self.ranks.to_json(),
        }


@dataclass(frozen=True)
class Sparsified:
    """All stages in order, the first with all gates."""

    stages: tuple[Stage, ...]

    def sparsest(self, tolerance: float = 0.0) -> int:
        """Number of the stage with the fewest parameters whose dev accuracy is not below the first stage's.

        Args:
            tolerance: How much below it still counts, such as 0.01 for a point. Where accuracy says nothing, the dev
                loss must not be more than that share above the first stage's.
        """
        dense = self.stages[0].dev
        if "accuracy" in dense:
            good = [n for n, stage in enumerate(self.stages) if stage.dev["accuracy"] >= dense["accuracy"] - tolerance]
        else:
            good = [n for n, stage in enumerate(self.stages) if stage.dev["loss"] <= dense["loss"] * (1 + tolerance)]
        # Of equal ones the last, which has been trained longest.
        return min(good, key=lambda n: (self.stages[n].ranks.parameters, -n))

    def tuned(self, number: int = -1) -> Tuned:
        """The tensors of a stage as those of one tune, with the history of all stages until then, steps in a row."""
        number = range(len(self.stages))[number]
        history: list[dict[str, float]] = []
        steps = 0
        for stage in self.stages[: number + 1]:
            rows = stage.tuned.history if not history else stage.tuned.history[1:]  # it began where the last ended
            history += [{**row, "step": row["step"] + steps} for row in rows]
            steps += stage.tuned.steps
        last = self.stages[number].tuned
        # The first stage may be kept at an earlier step than its last.
        best = steps if number else last.best_step
        seconds = sum(stage.tuned.seconds for stage in self.stages)
        return replace(last, history=history, best_step=best, steps=steps, seconds=seconds)


def sparsify(
    backbone: Backbone,
    method: SoRA,
    train: Sequence[Encoded],
    *,
    tensors: Mapping[str, Tensor],
    schedule: XiSchedule,
    dev: Sequence[Encoded],
    settings: TuneSettings | None = None,
    remembered: Sequence[Encoded] | None = None,
    folder: Path | str | None = None,
    description: str = "tuning",
) -> Sparsified:
    """Train at xi = 0, then at every further xi of the schedule, each time from where the last ended.

    The first stage keeps its best step on dev, the others their last, since an earlier step of theirs is less sparse.
    Each stage has a learning rate that begins anew: in the authors' code the one of the first stage has run out by
    then, and only the threshold still acts.

    Args:
        backbone: Left as it was found.
        method: Its own xi is not used.
        train, tensors, dev: As for `tune`; dev is needed.
        schedule: Values of xi, and steps of the stages after the first.
        settings: Of the first stage; patience is for that one only.
        remembered: Examples of train that memorisation is measured on; None is all of them.
        folder: For checkpoints, one folder each; a killed run goes on where it was, as `tune` does.
        description: Of the progress bar.
    Raises:
        ConfigError: the method has no gates, there is no dev, or the folder holds another run.
        DataError, DivergedError, DeltaError: as `tune`.
    """
    if not isinstance(method, SoRA):
        raise ConfigError(f"a schedule of xi is for SoRA, got {type(method).__name__}", hint="SoRA()")
    if not dev:
        raise ConfigError("a schedule of xi needs dev examples: every stage is measured on them")
    settings = settings or TuneSettings()
    later = replace(settings, steps=schedule.stage_steps or settings.steps, patience=None)
    rows = train if remembered is None else remembered
    stages: list[Stage] = []
    folders: list[Path] = []
    for number, xi in enumerate(schedule.values):
        at = replace(method, xi=xi)
        own = None if folder is None else Path(folder) / f"stage-{number:02d}"
        if own is not None:
            folders.append(own)
        with kept_unless_diverged(folders):
            tuned = tune(
                backbone,
                at,
                train,
                tensors=tensors,
                settings=later if stages else settings,
                dev=dev,
                keep="last" if stages else "best",
                folder=own,
                description=f"{description}, xi {xi:g}",
            )
        tensors = tuned.tensors
        with backbone.use(at, tensors):
            on_train, on_dev = measure(backbone, rows), measure(backbone, dev)
        stages.append(_stage(xi, tuned, ranks_of(Delta(at, dict(tensors))), on_train, on_dev, stages))
    return Sparsified(tuple(stages))


def _stage(
    xi: float, tuned: Tuned, ranks: Ranks, on_train: Measured, on_dev: Measured, before: Sequence[Stage]
) -> Stage:
    train, dev = on_train.metrics(), on_dev.metrics()
    first_train, first_dev = (before[0].train, before[0].dev) if before else (train, dev)
    return Stage(
        xi=xi,
        tuned=tuned,
        ranks=ranks,
        train=train,
        dev=dev,
        memorisation=_percent(train, first_train),
        generalisation=_percent(dev, first_dev),
    )


def _percent(now: Mapping[str, float], first: Mapping[str, float]) -> float | None:
    if not first.get("accuracy"):
        return None
    return 100 * now["accuracy"] / first["accuracy"]
