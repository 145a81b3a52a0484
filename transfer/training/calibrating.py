"""The loss that choices are made by: what is left of it once the scores have the right scale."""

from __future__ import annotations

import math

import numpy as np

SMALLEST = 1 / 64  # factor of the scores; the largest is 1, so right answers that are all sure are left alone


def calibrated_losses(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Cross-entropy of each example after one factor, at most 1, on all scores: the factor with the lowest mean.

    Few examples are soon known by heart. From then on training makes scores larger, and the loss of the few examples
    that are wrong grows, while no more of them are wrong. By the loss as it is, an early step looks best, and an
    initialization, whose scores are large from the start, looks worse than it is.

    Args:
        scores: (n, choices), -inf where a row has fewer choices.
        labels: (n,) the right choice of each row.
    Returns:
        Losses (n,) and the factor.
    Source:
        Temperature scaling: Guo et al. 2017, arxiv.org/abs/1706.04599; the factor is one over the temperature.

    >>> losses, factor = calibrated_losses(np.array([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), np.array([0, 0, 0]))
    >>> round(float(losses.mean()), 3), round(math.exp(9 * factor), 2)  # two of three are right: odds of 2 to 1
    (0.637, 2.0)
    """
    from scipy.optimize import minimize_scalar

    right = np.take_along_axis(scores, labels[:, None], axis=1)
    behind = np.asarray(scores - right, dtype=np.float64)  # of each choice before the right one; -inf stays

    def losses(log_factor: float) -> np.ndarray:
        return np.logaddexp.reduce(math.exp(log_factor) * behind, axis=1)

    # The mean is convex in the factor, so along its logarithm there is one lowest place.
    bounds = (math.log(SMALLEST), 0.0)
    found = minimize_scalar(lambda place: float(losses(place).mean()), bounds=bounds, method="bounded")
    best = min(0.0, float(found.x), key=lambda place: float(losses(place).mean()))  # it never tries the bound itself
    return losses(best), math.exp(best)
