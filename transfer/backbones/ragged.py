"""A batch of unequal lengths, read in groups of about equal ones: less padding for the price of more passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# What one more pass costs on a CPU, in tokens: on MiniLM 50 with gradients and 55 without, whatever the method.
PASS = 64


def groups(lengths: Sequence[int], pass_cost: int = PASS) -> list[np.ndarray]:
    """Index arrays of the rows that are read together, longest first; the division that costs least.

    Args:
        lengths: Of the rows, in tokens; each is padded to the longest of its group.
        pass_cost: Of each group, in tokens.

    >>> [group.tolist() for group in groups([9, 200, 10, 190])]
    [[1, 3], [2, 0]]
    >>> [group.tolist() for group in groups([9, 20, 10, 19])]
    [[1, 3, 2, 0]]
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    sizes = np.asarray(lengths)[order]
    n = len(order)
    least = np.zeros(n + 1)  # what the first so many rows cost at least
    begins = np.zeros(n + 1, dtype=int)  # where the last of their groups begins
    for end in range(1, n + 1):
        costs = least[:end] + sizes[:end] * (end - np.arange(end)) + pass_cost
        begins[end] = int(costs.argmin())
        least[end] = costs[begins[end]]
    found = []
    end = n
    while end:
        found.append(order[begins[end] : end])
        end = int(begins[end])
    return found[::-1]
