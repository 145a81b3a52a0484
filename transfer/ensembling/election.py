"""Electing a sign for every value: what TIES does with changes that pull in opposite directions."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from transfer.errors import ConfigError


class Election:
    """Takes weighted changes in groups; then says their merged value.

    At each value the sign with the larger weighted sum is elected. The merged value is the weighted mean of the
    changes that agree with it, times the sum of all |weights|: linear in the weights as a whole, the plain change for
    one module at weight 1, and the same whether a module is there once or twice at half the weight.

    Memory: four tensors of the shape, however many changes are taken.

    Args:
        shape: Of one change.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._up, self._down = torch.zeros(shape), torch.zeros(shape)  # sums of w x above and below 0
        self._up_share, self._down_share = torch.zeros(shape), torch.zeros(shape)  # sums of |w| there
        self._shares = 0.0

    def add(self, changes: Tensor, weights: Tensor) -> None:
        """Take the changes (n, *shape) of n modules with weights (n,); `changes` is overwritten."""
        # Signs, sums and products of floats: comparisons make booleans, which cost several times as much.
        sizes, one = weights.abs(), torch.ones(len(changes))
        flat = changes.reshape(len(changes), -1)
        flat *= weights[:, None]
        both, above = one @ flat, one @ flat.relu()
        signs = flat.sign()
        balance, present = sizes @ signs, sizes @ signs.abs_()
        self._up += above.view_as(self._up)
        self._down += (both - above).view_as(self._down)
        self._up_share += ((present + balance) / 2).view_as(self._up)
        self._down_share += ((present - balance) / 2).view_as(self._down)
        self._shares += float(sizes.double().sum())

    def add_still(self, weight: float) -> None:
        """Take a module that changes nothing here: it agrees with no sign, and counts in the sum of |weights|."""
        self._shares += abs(weight)

    def merged(self) -> Tensor:
        """The merged change; 0 where nothing pulls, or both sides pull alike."""
        sign = (self._up + self._down).sign()
        total = torch.where(sign > 0, self._up, torch.where(sign < 0, self._down, 0.0))
        share = torch.where(sign > 0, self._up_share, self._down_share)
        return torch.where(share > 0, total / share.clamp_min(1e-30) * self._shares, 0.0)


def trim(changes: Tensor, density: float) -> Tensor:
    """Keep the largest values of each change and set the rest to 0, in place.

    Args:
        changes: (n, *shape).
        density: Share that is kept of each row, at least one value; values as large as the smallest kept one stay too.
    """
    flat = changes.reshape(len(changes), -1)
    n = flat.shape[1]
    drop = n - max(1, math.ceil(density * n))
    if drop > 0:
        sizes = flat.abs()
        # numpy's selection; torch sorts or goes through the row many times.
        least = torch.from_numpy(np.partition(sizes.numpy(), drop, axis=1)[:, drop : drop + 1].copy())
        flat *= sizes.sub_(least).sign_().add_(1).clamp_max_(1)  # 1 where kept, else 0
    return changes


def check_density(density: float) -> None:
    """Refuse a density outside (0, 1]: ConfigError."""
    if not 0 < density <= 1:
        raise ConfigError(
            f"density must be above 0 and at most 1, got {density}", hint="the share of each change that is kept: 0.2"
        )
