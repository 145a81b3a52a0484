"""The loss that choices are made by: what is left of it once the scores have the right scale."""

from __future__ import annotations

import math

import numpy as np

SMALLEST = 1 / 64  # factor of the scores; the largest is 1, so right answers that are all sure are left alone
SPREAD = 2.0  # standard deviation of the factor's logarithm, before any example is seen


def calibrated_losses(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Cross-entropy of each example after one factor, at most 1, on all scores, with what the factor itself costs.

    Few examples are soon known by heart. From then on training makes scores larger, and the loss of the few examples
    that are wrong grows, while no more of them are wrong. By the loss as it is, an early step looks best, and an
    initialization, whose scores are large from the start, looks worse than it is.

    The factor f is the one with the lowest sum of losses + (ln f)^2 / (2 * 2^2), a normal prior on its logarithm. The
    second part is shared out among the examples: without it, scores that are as good as noise would lose no more than
    guessing does, and one of many such would look better by chance.

    Args:
        scores: (n, choices), -inf where a row has fewer choices.
        labels: (n,) the right choice of each row.
    Returns:
        Losses (n,) and the factor.
    Source:
        Temperature scaling: Guo et al. 2017, arxiv.org/abs/1706.04599; the factor is one over the temperature.

    >>> losses, factor = calibrated_losses(np.array([[9.0, 0.0]] * 900 + [[0.0, 9.0]] * 300), np.zeros(1200, int))
    >>> round(float(losses.mean()), 2), round(math.exp(9 * factor), 1)  # three of four are right: odds of 3 to 1
    (0.56, 3.0)
    """
    from scipy.optimize import minimize_scalar

    right = np.take_along_axis(scores, labels[:, None], axis=1)
    behind = np.asarray(scores - right, dtype=np.float64)  # of each choice before the right one; -inf stays

    def losses(log_factor: float) -> np.ndarray:
        cost = log_factor**2 / (2 * SPREAD**2 * len(labels))
        return np.logaddexp.reduce(math.exp(log_factor) * behind, axis=1) + cost

    bounds = (math.log(SMALLEST), 0.0)
    found = minimize_scalar(lambda place: float(losses(place).mean()), bounds=bounds, method="bounded")
    best = min(0.0, float(found.x), key=lambda place: float(losses(place).mean()))  # it never tries the bound itself
    return losses(best), math.exp(best)
