"""Signatures: small arrays, checked on the way in and the same again after a file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zoo_toys import signature_of

from zoo import Signature, TensorError


def test_arrays_survive_a_file_and_examples_are_rounded_to_fp16():
    signature = signature_of()
    again = Signature.from_bytes(signature.to_bytes())
    assert again.holds == signature.holds
    assert np.array_equal(again.centroid, signature.centroid)
    assert np.array_equal(again.examples, signature.examples.astype(np.float16).astype(np.float32))
    assert Signature.from_bytes(again.to_bytes()) == again
    assert again.to_bytes() == Signature.from_bytes(again.to_bytes()).to_bytes()


def test_arrays_are_read_only_copies():
    own = np.ones(4)
    signature = Signature(centroid=own)
    own[0] = 5
    assert signature.centroid[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        signature.centroid[0] = 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"centroid": np.array([1, np.nan])},
        {"centroid": np.ones((2, 2))},
        {"centroid": np.ones(0)},
        {"examples": np.ones(4)},
        {"examples": np.ones((65, 4))},
        {"variance": np.array([1.0, -1.0])},
        {"block_norms": np.array([-1.0])},
        {"weight_sketch": np.ones(1023)},
        {"centroid": np.ones(4), "examples": np.ones((2, 5))},
    ],
)
def test_arrays_that_cannot_be_are_refused(arrays):
    with pytest.raises(TensorError):
        Signature(**arrays)


def test_an_example_too_large_for_fp16_is_refused_when_written():
    with pytest.raises(TensorError, match="fp16"):
        Signature(examples=np.full((1, 2), 1e6)).to_bytes()


def test_a_version_of_the_future_is_refused():
    with pytest.raises(TensorError, match="version 2"):
        Signature(version=2)


def test_parts_and_merge_put_the_whole_together():
    whole = signature_of()
    assert whole.task_part().holds == ("centroid", "variance", "examples")
    assert whole.module_part().merge(whole.task_part()) == whole
    assert whole.module_part().with_task(signature_of(1)).centroid is not None
    assert not Signature()


def test_without_data_keeps_what_the_tensors_tell_anyway():
    assert signature_of().without_data().holds == ("weight_sketch", "block_norms")


@pytest.mark.parametrize("content", [b"", b"x" * 100, (2**60).to_bytes(8, "little") + b"{}"])
def test_a_broken_file_ends_in_a_tensor_error(content):
    with pytest.raises(TensorError):
        Signature.from_bytes(content)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 64), st.integers(1, 9)), elements=st.floats(-1, 1, width=16)))
def test_any_fp16_examples_survive_exactly(examples):
    assert np.array_equal(Signature.from_bytes(Signature(examples=examples).to_bytes()).examples, examples)
