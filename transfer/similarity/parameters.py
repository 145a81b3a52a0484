"""Similarity of parameters: where a short tune on the target goes, against where the modules went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from transfer.similarity.estimator import Estimator
from transfer.similarity.factors import differences
from transfer.similarity.sources import check_shapes, start_of
from transfer.similarity.target import SCRATCH_STEPS, SHORT_STEPS, Target
from zoo import Module


class ParameterCosine(Estimator):
    """Cosine of theta - theta_0 of the target, tuned for 20 steps from the shared start, with that of each module.

    The mean over tensors, in [-1, 1]. Differences from the start, since raw tensors agree by the start they share.
    Source: Lv et al. 2023, aclanthology.org/2023.acl-short.24 (cosine of parameters, there of the raw tensors).
    """

    name = "parameters:cosine"
    same_shapes = True
    same_start = True

    def __init__(self, steps: int = SCRATCH_STEPS) -> None:
        self.steps = steps

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        for module in modules:  # all of them before the tune, which takes time
            start_of(module)
            check_shapes(module, dict(module.tensors()), target.start)
        ours = differences(target.scratch_tune(self.steps).tensors, target.start)
        moved = (differences(dict(m.tensors(dtype=torch.float32)), start_of(m)) for m in modules)
        return np.array([_mean_cosine(ours, theirs) for theirs in moved])


class ParameterDrift(Estimator):
    """Minus how far each module moves in 10 steps on the target: a module that fits stays where it is.

    The mean over tensors of the Euclidean norm of the change.
    Source: Lv et al. 2023, aclanthology.org/2023.acl-short.24 (Euclidean distance, there 200 steps and a sum).
    """

    name = "parameters:euclidean"

    def __init__(self, steps: int = SHORT_STEPS) -> None:
        self.steps = steps

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        return np.array([-target.tune_from(module, self.steps).drift for module in modules])


def _mean_cosine(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Mean over tensors of the cosine; 0 for a tensor that did not move."""
    cosines = [
        float(torch.cosine_similarity(left[name].double().flatten(), right[name].double().flatten(), dim=0, eps=1e-12))
        for name in left
    ]
    return float(np.mean(cosines))
