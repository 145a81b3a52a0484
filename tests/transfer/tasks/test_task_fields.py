"""Marks of joined inputs: found over all rows, and taken apart without loss."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.tasks import find_fields, split_fields

CASES = {
    ("question: can a tree have more than one trunk context: Trees vary.", "question: is it so context: Yes."): (
        "question",
        "context",
    ),
    ("sentence 1: A b. sentence 2: C: d.", "sentence 1: E. sentence 2: F"): ("sentence 1", "sentence 2"),
    ("question: when candidate answer: at noon context: At noon.", "question: who candidate answer: me context: I."): (
        "question",
        "candidate answer",
        "context",
    ),
    (
        "dialogue: Speaker 1: 'a?' Speaker 2: 'b.' question: yes?",
        "dialogue: Speaker 1: 'c' Speaker 2: 'd' question: e",
    ): (
        "dialogue",
        "question",
    ),
    ("Question: a Context: b", "Question: c Context: d"): ("Question", "Context"),
    ("text: one", "text: two note: three"): ("text",),
    ("text: one", "two"): (),
    ("no marks", "none at all"): (),
    ("premise: a hypothesis: b", "hypothesis: b premise: a"): (),
    ("time is 12:30", "time is 12:30"): (),
    (): (),
}


@pytest.mark.parametrize("inputs", CASES)
def test_fields_are_the_marks_that_every_row_has(inputs):
    assert find_fields(inputs) == CASES[inputs]


def test_an_input_is_taken_apart_at_its_marks():
    text = "question: what is the context: of this candidate answer: none context: Words: many."
    assert split_fields(text, ("question", "candidate answer", "context")) == [
        ("question", "what is the context: of this"),
        ("candidate answer", "none"),
        ("context", "Words: many."),
    ]


def test_an_input_without_the_marks_is_one_nameless_field():
    assert split_fields("Just text.", ("question", "context")) == [("", "Just text.")]
    assert split_fields("Just text.", ()) == [("", "Just text.")]


words = st.lists(st.text(alphabet="abcdefgh:", min_size=1, max_size=6), min_size=1, max_size=6).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=8))
def test_joining_the_fields_gives_the_input_back(pairs):
    inputs = [f"question: {q} context: {p}" for q, p in pairs]
    fields = find_fields(inputs)
    assert fields[0] == "question"
    for text in inputs:
        assert " ".join(f"{name}: {value}".strip() for name, value in split_fields(text, fields)) == text
