"""Draws and splits: even, repeatable, leak-free."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.tasks.sampling import divide, draw
from transfer.tasks.table import Rows

labels = st.lists(st.integers(0, 5), min_size=1, max_size=80)


@given(labels, st.integers(1, 100), st.integers(0, 3))
def test_a_draw_is_as_even_as_the_labels_allow(labels, n, seed):
    drawn = draw(labels, n, seed)
    assert len(drawn) == len(set(drawn)) == min(n, len(labels))
    there, taken = Counter(labels), Counter(labels[i] for i in drawn)
    fullest = max(taken.values())
    for label, available in there.items():
        assert taken[label] >= min(available, fullest - 1), "no label is short while another has two more"


@given(labels, st.integers(1, 40), st.integers(0, 3))
def test_a_small_draw_is_the_beginning_of_a_larger_one(labels, n, seed):
    assert draw(labels, n + 7, seed)[:n] == draw(labels, n, seed)[:n]


def test_more_labels_than_examples_gives_distinct_labels():
    labels = [i % 77 for i in range(770)]
    drawn = draw(labels, 64, seed=0)
    assert len({labels[i] for i in drawn}) == 64


def test_draws_from_different_splits_and_seeds_differ():
    labels = [0] * 50
    assert draw(labels, 10, 0, "train") != draw(labels, 10, 0, "dev")
    assert draw(labels, 10, 0) != draw(labels, 10, 1)
    # Pinned: a draw that moved would silently change every published few-shot result.
    assert draw([0, 1] * 10, 6, seed=42, salt="train") == [2, 1, 8, 3, 14, 17]


def make(n, labels=None):
    return Rows([f"text {i}" for i in range(n)], [["a", "b"]] * n, labels or [i % 2 for i in range(n)])


@given(st.integers(3, 200), st.integers(1, 4))
def test_divided_parts_are_disjoint_whole_and_sized_as_asked(n, classes):
    rows = make(n, [i % classes for i in range(n)])
    parts = divide(rows, [0.8, 0.1, 0.1])
    assert sorted(index for part in parts for index in part) == list(range(n))
    assert all(parts)
    assert abs(len(parts[1]) - n / 10) <= 1.5
    assert abs(len(parts[2]) - n / 10) <= 1.5


def test_divided_parts_keep_the_mix_of_labels():
    rows = make(1000, [int(i % 10 == 0) for i in range(1000)])
    for part in divide(rows, [0.8, 0.1, 0.1]):
        share = sum(rows.labels[i] for i in part) / len(part)
        assert share == pytest.approx(0.1, abs=0.02)


def test_rows_that_differ_in_case_and_punctuation_stay_together():
    rows = Rows([text for i in range(30) for text in (f"Is it {i}?", f"is it {i}")], [["a", "b"]] * 60, [0, 1] * 30)
    for part in divide(rows, [0.8, 0.1, 0.1]):
        assert all((i ^ 1) in part for i in part)


@pytest.mark.parametrize(("opening", "fields"), [("", ()), ("text: ", ("text",)), ("title: text: ", ("title", "text"))])
def test_texts_of_symbols_alone_are_told_apart(opening, fields):
    rows = Rows([opening + "!" * (1 + i // 2) for i in range(60)], [["a", "b"]] * 60, [0, 1] * 30)
    parts = divide(rows, [0.8, 0.1, 0.1], fields=fields)
    assert all(parts)
    for part in parts:
        assert all((i ^ 1) in part for i in part)


def test_too_few_different_rows_cannot_be_divided():
    with pytest.raises(ValueError, match="1 different inputs"):
        divide(Rows(["a"] * 10, [["a", "b"]] * 10, [0] * 10), [0.8, 0.1, 0.1])


def test_what_decides_the_parts_is_neither_the_labels_order_nor_how_inputs_are_built():
    rows = make(60, [i % 3 for i in range(60)])
    parts = divide(rows, [0.8, 0.1, 0.1])
    turned = Rows(rows.inputs, rows.choices, [2 - label for label in rows.labels])
    assert divide(turned, [0.8, 0.1, 0.1]) == parts
    marked = Rows([f"review: {text}" for text in rows.inputs], rows.choices, rows.labels)
    assert divide(marked, [0.8, 0.1, 0.1], fields=("review",)) == parts
    assert divide(rows, [0.8, 0.1, 0.1], seed=1) != parts
