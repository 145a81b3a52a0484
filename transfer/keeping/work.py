"""Work: one start on one task, and the tunes that ways of keeping ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.method import DeltaMethod
from transfer.keeping.keep import KeepSettings, Tensors
from transfer.training.measuring import measure
from transfer.training.run_folder import SNAPSHOTS, Snapshots
from transfer.training.settings import SEEDS, TuneSettings
from transfer.training.tuning import Tuned, tune
from zoo import Module


class OtherStart(NamedTuple):
    """A further start of a soup."""

    name: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Trajectory:
    """A tune with the deltas along it: step -> tensors, the start at 0; step -> calibrated loss where there is dev."""

    tuned: Tuned
    tensors: dict[int, Tensors]
    losses: dict[int, float]

    @property
    def best_step(self) -> int:
        """The step of the lowest calibrated dev loss, the first of equal ones; without dev the last."""
        return min(self.losses, key=lambda step: (self.losses[step], step)) if self.losses else max(self.tensors)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is tuned, and how.

    Args:
        backbone: Left as it was found.
        method: Of the start.
        start: Tensors by canonical name.
        settings: Of each tune.
        keep: What the ways of keeping choose among.
        others: Further starts, for soups; they share the start draw, the method and the places of `start`.
        sources: Modules whose mix is learned, and theta_0, what they were trained from.
        folder: For checkpoints; None keeps none.
        name: Of the task and the start, for progress bars.
        folders: Those of the tunes so far.
    """

    backbone: Backbone
    method: DeltaMethod
    start: Mapping[str, Tensor]
    settings: TuneSettings
    keep: KeepSettings = field(default_factory=KeepSettings)
    others: Sequence[OtherStart] = ()
    sources: Sequence[Module] = ()
    origin: Mapping[str, Tensor] = field(default_factory=dict)
    folder: Path | None = None
    name: str = "tuning"
    folders: list[Path] = field(default_factory=list, repr=False)

    def path(
        self,
        train: Sequence[Encoded],
        dev: Sequence[Encoded] | None,
        part: str,
        *,
        start: Mapping[str, Tensor] | None = None,
        pull: float = 0.0,
        seed: int = 0,
    ) -> Trajectory:
        """Tune and keep the delta of every look at dev.

        Args:
            train, dev: Encoded examples; without dev nothing is measured, and it goes to the last step.
            part: Names the tune; decides its folder.
            start: None is the work's own.
            pull: Towards the start.
            seed: Added to the seed of the settings; after the last comes 0.
        """
        begin = self.start if start is None else start
        folder = None if self.folder is None else self.folder / part
        if folder is not None:
            self.folders.append(folder)
        snapshots = Snapshots(None if folder is None else folder / SNAPSHOTS)
        snapshots.offer(0, begin)
        settings = replace(self.settings, seed=(self.settings.seed + seed) % SEEDS)
        tuned = tune(
            self.backbone,
            self.method,
            train,
            tensors=begin,
            settings=settings if dev else replace(settings, patience=None),
            dev=dev,
            keep="last",
            pull=pull,
            snapshots=snapshots,
            folder=folder,
            description=f"{self.name}, {part}",
        )
        # A killed run may have left snapshots of steps that an early stop of this one did not reach.
        tensors = {step: found for step, found in snapshots.read().items() if step <= tuned.steps}
        losses = {int(row["step"]): row["calibrated"] for row in tuned.history if int(row["step"]) in tensors}
        return Trajectory(tuned, tensors, losses)

    def loss(self, tensors: Mapping[str, Tensor], dev: Sequence[Encoded] | None) -> float | None:
        """Mean calibrated dev loss of a delta; None without dev."""
        if not dev:
            return None
        with self.backbone.use(self.method.direct(), tensors):
            return measure(self.backbone, dev).calibrated_loss
