"""The nearest source examples, exactly, and the same index again from disk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_toys import FINGERPRINT, module_of, signature_of

from zoo import Signature, SignatureIndex, TensorError, Zoo
from zoo import index as index_file


def _module(task, seed, examples=None, **fields):
    signature = signature_of(seed) if examples is None else Signature(examples=np.asarray(examples))
    return module_of(task, seed=seed, signature=signature, **fields)


def test_the_nearest_example_and_its_module_by_hand():
    a, b = _module("a", 0, [[1, 0], [0, 2]]), _module("b", 1, [[-1, 0]])
    index = SignatureIndex.build([a, b])
    found = index.search(np.array([[3.0, 0.3], [-5.0, 0.0]]), k=3)
    assert found.owners == ((a.id,), (b.id,))
    assert found.groups.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert found.similarity[0, 0] == pytest.approx(3 / np.hypot(3, 0.3), abs=1e-6)
    assert found.similarity[1].tolist() == [1.0, 0.0, -1.0]
    assert found.pairs()[1] == [(b.id, 1.0), (a.id, 0.0), (a.id, -1.0)]


def test_examples_shared_by_modules_stand_once():
    modules = [_module("a", seed, [[1.0, 0.0]]) for seed in (0, 1)] + [_module("b", 2, [[0.0, 1.0]])]
    index = SignatureIndex.build(modules)
    assert len(index) == 2
    assert index.add(modules[0])
    assert len(index) == 2
    found = index.search(np.array([[1.0, 0.1]]), k=1)
    assert [owner for owner, _ in found.pairs()[0]] == sorted(module.id for module in modules[:2])


def test_fewer_examples_than_asked_for_are_marked():
    found = SignatureIndex.build([_module("a", 0, [[1.0, 0.0]])]).search(np.ones((2, 2)), k=4)
    assert found.groups[:, 1:].tolist() == [[-1] * 3] * 2
    assert (found.similarity[:, 1:] == -1).all()
    assert all(len(pairs) == 1 for pairs in found.pairs())


def test_modules_without_examples_are_left_out_and_told():
    bare = module_of("c", seed=9)
    index = SignatureIndex.build([bare, _module("a", 0)])
    assert index.left_out == [bare.id]
    with pytest.raises(TensorError, match="1 modules without"):
        SignatureIndex.build([bare])


@pytest.mark.parametrize("queries", [np.ones(8), np.ones((1, 7)), np.full((1, 8), np.nan)])
def test_queries_that_cannot_be_are_refused(queries):
    with pytest.raises(TensorError):
        SignatureIndex.build([_module("a", 0)]).search(queries)


def test_another_width_is_refused_by_name():
    index = SignatureIndex.build([_module("a", 0)])
    with pytest.raises(TensorError, match="width 2"):
        index.add(_module("b", 1, [[1.0, 0.0]]))
    with pytest.raises(ValueError, match="at least 1"):
        index.search(np.ones((1, 8)), k=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 12))
def test_the_index_agrees_with_plain_arithmetic(seed, k):
    random = np.random.default_rng(seed)
    blocks = [random.normal(size=(n, 6)).astype(np.float32) for n in (3, 5)]
    index = SignatureIndex.build([_module(f"t{i}", i, block) for i, block in enumerate(blocks)])
    queries = random.normal(size=(4, 6))
    rows = np.concatenate(blocks)
    cosine = (queries @ rows.T) / np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(rows, axis=1))
    expected = -np.sort(-cosine, axis=1)[:, :k]
    found = index.search(queries, k).similarity
    assert np.allclose(found[:, : expected.shape[1]], expected, atol=1e-5)


def test_the_kept_index_grows_with_the_zoo_and_shrinks_with_it(tmp_path, monkeypatch):
    zoo = Zoo(tmp_path)
    first = zoo.add(_module("a", 0))
    built = []
    real = SignatureIndex.build.__func__
    monkeypatch.setattr(SignatureIndex, "build", classmethod(lambda cls, found: built.append(1) or real(cls, found)))
    assert len(zoo.index(FINGERPRINT)) == 5
    zoo.add(_module("b", 1))
    zoo.add(module_of("bare", seed=5))
    for _ in range(2):
        index = zoo.index(FINGERPRINT)
        assert (len(index), len(built)) == (10, 1)
    again = real(SignatureIndex, zoo.find())
    assert np.array_equal(again.search(np.eye(8), 3).similarity, zoo.index(FINGERPRINT).search(np.eye(8), 3).similarity)
    zoo.remove(first.id)
    assert len(zoo.index(FINGERPRINT)) == 5
    assert len(built) == 2


@pytest.mark.parametrize("content", [b"", b"x" * 50, (10**9).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{}"])
def test_a_broken_kept_index_is_built_again(tmp_path, content):
    zoo = Zoo(tmp_path)
    zoo.add(_module("a", 0))
    zoo.index(FINGERPRINT)
    path = next((tmp_path / ".index").iterdir())
    whole = path.read_bytes()
    path.write_bytes(content or whole[:-40])
    assert len(zoo.index(FINGERPRINT)) == 5
    assert path.read_bytes() == whole


def test_a_read_only_zoo_keeps_its_index_in_the_cache(tmp_path):
    Zoo(tmp_path).add(_module("a", 0))
    reader = Zoo(tmp_path, read_only=True)
    assert len(reader.index(FINGERPRINT)) == 5
    assert not (tmp_path / ".index").exists()
    assert index_file.kept_index(reader.find(), FINGERPRINT, tmp_path / "elsewhere").ids == set(reader.ids())
