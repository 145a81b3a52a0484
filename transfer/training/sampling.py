"""Batches of about equal length, in a random order that only the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

POOL = 20  # batches that are shuffled together and then sorted by length; the larger, the less padding and randomness


class LengthBatches(Sampler[list[int]]):
    """Index lists for a DataLoader. Every example comes once an epoch; the last batch may be short."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch; a resumed run gets the same order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        pool = POOL * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            # The short batch is a step as any other, so its rows weigh more: they are drawn, whatever their lengths.
            short = len(part) % self.batch_size
            rest, part = part[:short], part[short:]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[i : i + self.batch_size].tolist() for i in range(0, len(part), self.batch_size)]
            batches += [rest.tolist()] if short else []
        for number in random.permutation(len(batches)):
            yield batches[number]
