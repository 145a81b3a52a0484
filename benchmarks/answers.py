"""Which rows of a test split were answered right, as a row of a benchmark holds it: bits in base64."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

DRAWS = 4000


def packed(right: Sequence[float] | np.ndarray) -> str:
    """`N:bits` of N answers.

    >>> packed([1.0, 0.0, 1.0])
    '3:oA=='
    """
    bits = np.asarray(right) > 0
    return f"{len(bits)}:{base64.b64encode(np.packbits(bits).tobytes()).decode()}"


def unpacked(text: str) -> np.ndarray:
    """(N,) of 0.0 and 1.0.

    >>> unpacked("3:oA==")
    array([1., 0., 1.])
    """
    n, _, bits = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(bits), dtype=np.uint8))[: int(n)].astype(np.float64)


def paired_interval(pairs: Sequence[tuple[str, str]], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95% of the difference in accuracy on one target, over its test rows and the seeds, both drawn anew.

    Args:
        pairs: (ours, base) of each seed, packed, on the same rows.
        draws: Of the bootstrap.
        seed: Of it.
    """
    difference = np.stack([unpacked(ours) - unpacked(base) for ours, base in pairs])  # (seeds, rows)
    generator = np.random.default_rng(seed)
    n_seeds, n_rows = difference.shape
    # A draw's seeds by how often each is in it, its rows likewise: no table of draws x rows x seeds.
    of_seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=draws) / n_seeds
    of_rows = generator.multinomial(n_rows, np.full(n_rows, 1 / n_rows), size=draws) / n_rows
    means = np.einsum("ds,dr,sr->d", of_seeds, of_rows, difference, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
