"""Ways that average deltas of one tune: between start and end, or along the path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from transfer.backbones.encoding import Encoded
from transfer.keeping.keep import Keep, Tensors, Trial
from transfer.keeping.steps import add_steps, trial_of
from transfer.keeping.work import Trajectory, Work


def mean_of(deltas: Iterable[Mapping[str, Tensor]]) -> Tensors:
    """The plain average of deltas with the same tensors, fp32."""
    every = list(deltas)
    return {name: torch.stack([delta[name].float() for delta in every]).mean(dim=0) for name in every[0]}


def between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> Tensors:
    """start + share * (end - start); the ends come back to the last bit."""
    return {name: torch.lerp(start[name].float(), end[name].float(), share) for name in start}


def add_shares(trial: Trial, path: Trajectory, work: Work, dev: Sequence[Encoded] | None) -> None:
    """Points between the start and the last step."""
    for share in work.keep.shares:
        found = between(path.tensors[0], path.tensors[max(path.tensors)], share)
        trial.add(f"share {share:g}", found, work.loss(found, dev))


def add_averages(trial: Trial, path: Trajectory, work: Work, dev: Sequence[Encoded] | None) -> None:
    """The average from every step but the last on."""
    for begin in list(path.tensors)[:-1]:
        found = mean_of(tensors for step, tensors in path.tensors.items() if step >= begin)
        trial.add(f"average from step {begin}", found, work.loss(found, dev))


class Interpolate(Keep):
    """Between the start and the last step of the tune, by shares; the measured steps are candidates too.

    Source: Wortsman et al. 2022, arxiv.org/abs/2109.01903 (WiSE-FT).
    """

    name: ClassVar[str] = "interpolate"

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        path = work.path(train, dev, part)
        trial = trial_of(path)
        add_steps(trial, path)
        add_shares(trial, path, work, dev)
        return trial


class Average(Keep):
    """The average of the trajectory from some step on; the steps by themselves are candidates too.

    Source: Izmailov et al. 2018, arxiv.org/abs/1803.05407, with the part that is averaged chosen by loss.
    """

    name: ClassVar[str] = "average"

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        path = work.path(train, dev, part)
        trial = trial_of(path)
        add_steps(trial, path)
        add_averages(trial, path, work, dev)
        return trial
