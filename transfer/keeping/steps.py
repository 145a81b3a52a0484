"""Ways that take one step of a tune: the best, the start among the candidates, or the last; with or without a pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from transfer.backbones.encoding import Encoded
from transfer.keeping.keep import Keep, KeepSettings, Trial
from transfer.keeping.work import Trajectory, Work


def add_steps(trial: Trial, path: Trajectory, prefix: str = "", after: int = -1) -> None:
    """Every step later than `after` is a candidate, the earliest first."""
    for step in path.tensors:
        if step > after and (not path.losses or step in path.losses):
            trial.add(f"{prefix}step {step}", path.tensors[step], path.losses.get(step))


def trial_of(path: Trajectory) -> Trial:
    """A trial with the history and the costs of one path, without candidates so far."""
    trial = Trial()
    trial.count(path.tuned)
    return trial


class Best(Keep):
    """The step with the lowest loss; step 0, the start as it is, is a candidate like any other."""

    name: ClassVar[str] = "best"

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        path = work.path(train, dev, part)
        trial = trial_of(path)
        add_steps(trial, path)
        return trial


class Last(Keep):
    """The last step: nothing is chosen."""

    name: ClassVar[str] = "last"
    chooses: ClassVar[bool] = False
    folds: ClassVar[bool] = False

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        path = work.path(train, dev, part)
        trial, last = trial_of(path), max(path.tensors)
        trial.add(f"step {last}", path.tensors[last], path.losses.get(last))
        return trial


class L2SP(Keep):
    """A tune for each strength of the pull towards the start; strength and step are chosen together.

    Source: Li et al. 2018, arxiv.org/abs/1802.01483.
    """

    name: ClassVar[str] = "l2-sp"

    def narrowed(self, settings: KeepSettings, chosen: str) -> KeepSettings:
        pulls = [pull for pull in settings.pulls if chosen.startswith(f"pull {pull:g}, ")]
        return replace(settings, pulls=tuple(pulls or settings.pulls[:1]))

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        trial = Trial()
        for pull in work.keep.pulls:
            path = work.path(train, dev, f"{part}-pull-{pull:g}", pull=pull)
            if "step 0" not in trial.tensors:  # the same under every pull
                trial.add("step 0", path.tensors[0], path.losses.get(0))
            add_steps(trial, path, f"pull {pull:g}, ", after=0)
            trial.count(path.tuned, pull=pull)
        return trial
