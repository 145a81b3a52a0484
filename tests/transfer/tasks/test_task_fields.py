"""Marks of joined inputs: found over all rows, and taken apart without loss."""

from __future__ import annotations

import time

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
    ("вопрос: a контекст: b", "вопрос: c контекст: d"): ("вопрос", "контекст"),
    ("text: one", "two"): (),
    ("no marks", "none at all"): (),
    ("premise: a hypothesis: b", "hypothesis: b premise: a"): (),
    ("time is 12:30", "time is 12:30"): (),
    (): (),
}


@pytest.mark.parametrize("inputs", CASES)
def test_fields_are_the_marks_that_every_row_has(inputs):
    assert find_fields(inputs) == CASES[inputs]


def test_marks_of_the_template_are_fields_however_they_are_written():
    inputs = ["Question: is it wet context: rain", "Question: who won context: me"]
    assert find_fields(inputs) == ("Question",)
    assert find_fields(inputs, ["Question", "context"]) == ("Question", "context")
    assert find_fields([text.swapcase() for text in inputs], ["qUESTION", "CONTEXT"]) == ("qUESTION", "CONTEXT")


LONG = {
    "many colons": " ".join(f"lorem ipsum{i % 20}:" if i % 20 == 0 else "internationalization" for i in range(20_000)),
    "one long word": "A" * 40_000 + " b: c",
    "one long word before a colon": "A" * 40_000 + ": c",
    "long words": " ".join("x" * n + ":" for n in (79, 80, 81, 238, 239, 240, 241, 242, 500)),
}


@pytest.mark.parametrize("case", LONG)
def test_long_inputs_are_read_in_no_time(case):
    inputs = [f"question: one {LONG[case]} context: two", f"question: {LONG[case]} context: three"]
    start = time.process_time()
    fields = find_fields(inputs)
    assert time.process_time() - start < 3
    assert fields[0] == "question"
    assert fields[-1] == "context"


@pytest.mark.parametrize("gap", range(225, 250))
def test_a_mark_after_a_long_word_is_found_whole(gap):
    inputs = [f"question: {letter * gap} candidate answer: {letter}" for letter in "ab"]
    assert find_fields(inputs) == ("question", "candidate answer")


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
