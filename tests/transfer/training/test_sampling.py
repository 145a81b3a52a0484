"""Batches of about equal length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.training.sampling import POOL, LengthBatches

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=400)
SIZE = st.integers(1, 32)


@given(LENGTHS, SIZE, st.integers(0, 99))
def test_every_example_comes_once_an_epoch(lengths, size, seed):
    batches = list(LengthBatches(lengths, size, seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(LENGTHS, SIZE)
def test_batches_are_full_but_for_one(lengths, size):
    sampler = LengthBatches(lengths, size, 0)
    sizes = [len(batch) for batch in sampler]
    assert len(sizes) == len(sampler)
    assert all(1 <= found <= size for found in sizes)
    assert sum(found < size for found in sizes) <= 1


@given(LENGTHS, SIZE, st.integers(0, 5))
def test_seed_and_epoch_decide_the_order(lengths, size, epoch):
    first, second = LengthBatches(lengths, size, 1), LengthBatches(lengths, size, 1)
    first.set_epoch(epoch)
    second.set_epoch(epoch)
    assert list(first) == list(second) == list(first)


def test_epochs_and_seeds_have_different_orders():
    lengths = list(range(64))
    sampler = LengthBatches(lengths, 4, 0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LengthBatches(lengths, 4, 1)) != first


def test_in_the_long_run_an_example_weighs_the_same_whatever_its_length():
    for n, size in [(17, 16), (50, 16), (7, 8), (POOL * 2 + 1, 2)]:
        sampler, weights = LengthBatches(range(n), size, 0), np.zeros(n)
        epochs = 4000 if n < POOL * 2 else 1000
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            for batch in sampler:
                weights[batch] += 1 / len(batch) / len(sampler) / epochs
        assert weights.sum() == pytest.approx(1)
        thirds = [part.mean() * n for part in np.array_split(weights, 3)]
        assert thirds == pytest.approx([1, 1, 1], abs=0.1)
        assert weights[-1] * n == pytest.approx(1, abs=0.25)


def test_a_batch_holds_about_equal_lengths():
    lengths = np.random.default_rng(0).integers(1, 129, size=16 * POOL)
    spread = [np.ptp(lengths[batch]) for batch in LengthBatches(lengths, 16, 0)]
    assert max(spread) <= 2 * 128 / POOL  # sorted in a pool of 20 batches, each covers a twentieth of the range
