"""Similarity by predictions: how well each module, as it is, answers the target's examples.

Source: Lv et al. 2023, aclanthology.org/2023.acl-short.24, with means per example in place of sums over tokens.
Probabilities are the softmax over an example's choices, for every kind of backbone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from transfer.errors import ConfigError
from transfer.similarity.estimator import Estimator
from transfer.similarity.target import SCRATCH_STEPS, SHORT_STEPS, Target
from transfer.training.calibrating import calibrated_losses
from zoo import Module


class PredictionLoss(Estimator):
    """Minus the mean loss.

    Cross-entropy over the choices for an encoder, mean token cross-entropy of the right answer for the others.
    """

    name = "prediction:loss"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        return np.array([-float(losses.double().mean()) for losses in target.losses(modules)])


class OfProbabilities(Estimator):
    """What compares the probabilities (n, choices) that a module gives, 0 where a row has fewer choices."""

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        _check_choices(target, self.name)
        self.prepare(target)
        right = torch.tensor([row.label for row in target.sample])
        return np.array([float(self.compare(logits.double(), right).mean()) for logits, _ in target.outputs(modules)])

    def prepare(self, target: Target) -> None:
        """What is computed once, before modules are run."""
        return None

    @abstractmethod
    def compare(self, logits: Tensor, right: Tensor) -> Tensor:
        """Similarity on each example (n,) from logits (n, choices), -inf for absent ones, and right choices (n,)."""


class CalibratedLoss(Estimator):
    """Minus the mean calibrated loss: the cross-entropy over the choices after one factor, at most 1, on all scores.

    A module that was trained long is sure of itself, on a task of its own kind as well, and the loss of the few answers
    that it gets wrong hides that it gets most of them right. Where there is nothing to choose it is the loss.
    """

    name = "prediction:calibrated"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        if not _has_choices(target):
            return PredictionLoss().values(target, modules)
        right = np.array([row.label for row in target.sample])
        return np.array([-calibrated_losses(logits.numpy(), right)[0].mean() for logits, _ in target.outputs(modules)])


class ErrorNorm(OfProbabilities):
    """Minus the mean Euclidean norm of the error, |p - onehot(y)|, in [-sqrt(2), 0] (EL2N)."""

    name = "prediction:el2n"

    def compare(self, logits: Tensor, right: Tensor) -> Tensor:
        wanted = nn.functional.one_hot(right, logits.shape[1])
        return -(logits.softmax(dim=1) - wanted).norm(dim=1)


class LabelCosine(OfProbabilities):
    """Mean cosine of the probabilities with the right answer's one-hot vector, in [0, 1]."""

    name = "prediction:label-cosine"

    def compare(self, logits: Tensor, right: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        return p.gather(1, right.unsqueeze(1)).squeeze(1) / p.norm(dim=1)


class Divergence(OfProbabilities):
    """Minus the mean KL(P || Q): P of the target's own short tune from the shared start, Q of the module."""

    name = "prediction:kl"

    def __init__(self, steps: int = SCRATCH_STEPS) -> None:
        self.steps = steps
        self._ours = torch.empty(0)

    def prepare(self, target: Target) -> None:
        tuned = target.scratch_tune(self.steps)
        with target.backbone.use(target.method, tuned.tensors):
            self._ours = target.backbone.choice_logits(target.sample).double().log_softmax(dim=1)

    def compare(self, logits: Tensor, right: Tensor) -> Tensor:
        theirs, there = logits.log_softmax(dim=1), torch.isfinite(logits)
        ratio = torch.where(there, self._ours - theirs, 0.0)  # an absent choice would be inf - inf
        return -(self._ours.exp() * ratio).sum(dim=1)


class ShortTunePerformance(Estimator):
    """Accuracy after 10 steps on the target; equal accuracies are told apart by the loss.

    Dev is not for estimators, so the training examples are halved: one half tunes, the other measures. The loss is
    pressed into less than half an example's worth of accuracy, and so never overrules one.
    """

    name = "prediction:performance"

    def __init__(self, steps: int = SHORT_STEPS) -> None:
        self.steps = steps

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        found = [target.tune_from(module, self.steps).held_out for module in modules]
        less_than_one = 2 * len(target.halves[1])
        return np.array([held.accuracy - held.loss / (1 + held.loss) / less_than_one for held in found])


def _has_choices(target: Target) -> bool:
    return any(len(row.choices) > 1 for row in target.sample)


def _check_choices(target: Target, name: str) -> None:
    if not _has_choices(target):
        raise ConfigError(
            f"{name} compares the probabilities of choices, and task {target.task.name!r} has none to choose from",
            hint="--estimator prediction:loss, which any task has",
        )
