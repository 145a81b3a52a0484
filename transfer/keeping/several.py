"""auto: several ways of keeping, and what is best among all their candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from transfer.backbones.encoding import Encoded
from transfer.keeping.averages import add_averages, add_shares
from transfer.keeping.keep import Keep, KeepSettings, Trial
from transfer.keeping.mixing import Mixing
from transfer.keeping.steps import L2SP, add_steps, trial_of
from transfer.keeping.work import Work

MIXING = "mixing, "  # in front of its steps, which are not those of the tune


class Auto(Keep):
    """The steps of one tune, points between start and end, averages of it, pulls, and mixing where there are modules.

    One tune gives the first three, each pull and mixing cost one more. Of equal losses the plainer is taken.
    """

    name: ClassVar[str] = "auto"
    sources: ClassVar[bool] = True
    optional: ClassVar[bool] = True

    def narrowed(self, settings: KeepSettings, chosen: str) -> KeepSettings:
        if chosen.startswith(MIXING):
            return replace(settings, ways=("mixing",))
        if chosen.startswith("pull "):
            return L2SP().narrowed(replace(settings, ways=("l2-sp",)), chosen)
        return replace(settings, ways=("interpolate", "average"))

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        ways = work.keep.ways
        path = work.path(train, dev, part)
        trial = trial_of(path)
        add_steps(trial, path)
        if "interpolate" in ways:
            add_shares(trial, path, work, dev)
        if "average" in ways:
            add_averages(trial, path, work, dev)
        if "l2-sp" in ways:
            trial.take(L2SP().trial(work, train, dev, part))
        if "mixing" in ways and work.sources and not getattr(work.method, "reparameterisation", None):
            trial.take(Mixing().trial(work, train, dev, part), MIXING, way="mixing")
        return trial
