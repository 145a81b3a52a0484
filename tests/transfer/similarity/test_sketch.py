"""Sketches are stable, unbiased, and the same from factors as from the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from transfer.similarity import sketch
from transfer.similarity.sketch import SIZE, signs, sketch_factors, sketch_outer, sketch_tensor, sketch_tensors


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_signs_are_those_that_stored_sketches_were_made_with():
    assert signs("encoder.layer.0.attention.self.query", "out", 8)[0].tolist() == [-1, -1, -1, -1, 1, -1, 1, -1]
    assert signs("encoder.layer.0.attention.self.query", "in", 5)[-1].tolist() == [1, 1, 1, 1, 1]


def test_signs_differ_by_place_and_side_and_have_mean_zero():
    a, b, c = signs("a", "out", 64), signs("b", "out", 64), signs("a", "in", 64)
    assert set(a.unique().tolist()) == {-1.0, 1.0}
    for x, y in ((a, b), (a, c)):
        assert abs(float((x * y).mean())) < 0.02
    assert abs(float(a.mean())) < 0.02


def test_sketch_is_the_bilinear_form_by_hand():
    x = normal(3, 4)
    u, v = signs("p", "out", 3), signs("p", "in", 4)
    expected = torch.stack([u[k] @ x @ v[k] for k in range(SIZE)]) / math.sqrt(SIZE)
    torch.testing.assert_close(sketch_tensor("p", x), expected)


@pytest.mark.parametrize(("rows", "n_out", "n_in"), [(3, 40, 30), (5000, 4, 6)], ids=["from factors", "formed"])
def test_sketch_of_factors_is_that_of_their_product(rows, n_out, n_in):
    left, right = normal(rows, n_out), normal(rows, n_in, seed=1)
    torch.testing.assert_close(sketch_outer("p", left, right), sketch_tensor("p", left.T @ right), rtol=1e-3, atol=1e-2)


def test_sketch_of_lora_factors_sums_over_places():
    factors = {place: (normal(2, 5, seed=i), normal(7, 2, seed=9 + i)) for i, place in enumerate(("a", "b"))}
    whole = {place: b @ a for place, (a, b) in factors.items()}
    torch.testing.assert_close(sketch_factors(factors), sketch_tensors(whole), rtol=1e-4, atol=1e-4)


def test_inner_product_of_sketches_is_unbiased(monkeypatch):
    """Over many seeds the mean comes within three standard errors of the true inner product."""
    monkeypatch.setattr(sketch, "SIZE", 64)
    x = {"a": normal(5, 6), "b": normal(4)}
    y = {"a": normal(5, 6, seed=1) + 0.5 * x["a"], "b": normal(4, seed=2)}
    true = sum(float((x[name] * y[name]).sum()) for name in x)
    found = []
    for seed in range(400):
        named = [{f"{name}{seed}": value for name, value in side.items()} for side in (x, y)]
        found.append(float(sketch_tensors(named[0]) @ sketch_tensors(named[1])))
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) - true) < 3 * error
    assert error < 0.2 * abs(true)


def test_cosine_of_sketches_estimates_the_cosine_of_the_tensors():
    x = normal(64, 64)
    y = 0.6 * x + 0.8 * normal(64, 64, seed=1)
    found = torch.cosine_similarity(sketch_tensor("p", x), sketch_tensor("p", y), dim=0)
    assert float(found) == pytest.approx(0.6, abs=0.1)


def test_norm_of_a_sketch_estimates_the_norm_of_the_tensor():
    x = normal(32, 48)
    assert float(sketch_tensor("p", x).norm() / x.norm()) == pytest.approx(1, abs=0.1)


def test_a_scalar_and_a_vector_are_sketched_too():
    assert sketch_tensor("p", torch.tensor(2.0)).shape == (SIZE,)
    assert float(sketch_tensor("p", torch.tensor(2.0)).norm()) == pytest.approx(2)
    assert sketch_tensor("p", normal(7)).shape == (SIZE,)
