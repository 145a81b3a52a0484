"""Votes of neighbours, found by FAISS, against a search by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from transfer.errors import ConfigError
from transfer.similarity.neighbours import CLOSEST, NeighbourVotes
from zoo import Signature


def target(rows):
    return SimpleNamespace(embeddings=np.array(rows, dtype=np.float32))


def source(name, rows):
    signature = Signature(examples=np.array(rows, dtype=np.float32))
    return SimpleNamespace(id=name, signature=signature, card=SimpleNamespace(task=name))


def brute_force(ours, examples, nearest):
    """Share of votes of each source by loops over all pairs."""
    shares = np.zeros(len(examples))
    for row in ours:
        pairs = [(float(np.linalg.norm(row - x)), number) for number, rows in enumerate(examples) for x in rows]
        pairs = sorted(pairs)[:nearest]
        total = sum(1 / max(distance, CLOSEST) for distance, _ in pairs)
        for distance, number in pairs:
            shares[number] += 1 / max(distance, CLOSEST) / total / len(ours)
    return shares


@pytest.mark.parametrize("nearest", [1, 5, 1000])
def test_votes_are_those_of_a_search_over_all_pairs(nearest):
    random = np.random.default_rng(0)
    ours = random.normal(size=(11, 6)).astype(np.float32)
    examples = [random.normal(size=(n, 6)).astype(np.float32) for n in (9, 64, 20, 1)]
    modules = [source(f"m{number}", rows) for number, rows in enumerate(examples)]
    found = NeighbourVotes(nearest).score(target(ours), modules)
    np.testing.assert_allclose(found, brute_force(ours, examples, nearest), rtol=1e-4, atol=1e-6)
    assert found.sum() == pytest.approx(1)


def test_one_example_by_hand():
    """Neighbours at distances 1 and 3: three quarters of the vote and one."""
    found = NeighbourVotes(2).score(target([[0, 0]]), [source("a", [[1, 0], [9, 0]]), source("b", [[0, 3]])])
    np.testing.assert_allclose(found, [0.75, 0.25], rtol=1e-6)


def test_modules_of_one_task_share_its_votes_without_taking_them_from_each_other():
    rows = [[1, 0], [0, 1]]
    other = [[3, 3], [4, 4]]
    alone = NeighbourVotes(3).score(target([[0, 0]]), [source("a", rows), source("c", other)])
    twice = NeighbourVotes(3).score(target([[0, 0]]), [source("a", rows), source("b", rows), source("c", other)])
    assert twice.tolist() == [alone[0], alone[0], alone[1]]


def test_an_example_seen_in_training_takes_nearly_the_whole_vote():
    found = NeighbourVotes(4).score(target([[1, 0]]), [source("seen", [[1, 0]]), source("not", [[0, 1], [-1, 0]])])
    assert found[0] > 0.98


def test_at_least_one_neighbour():
    with pytest.raises(ConfigError, match="nearest must be at least 1"):
        NeighbourVotes(0)
