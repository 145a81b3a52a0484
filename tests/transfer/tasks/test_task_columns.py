"""Columns: told by arguments, or guessed when obvious."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import ConfigError, DataError
from transfer.tasks import load_task
from transfer.tasks.columns import Columns
from transfer.tasks.guessing import complete
from transfer.tasks.table import Table
from transfer.tasks.template import Template


def table(**columns):
    n = len(next(iter(columns.values())))
    return Table("t.csv", columns, range(2, n + 2))


def write(path, header, body):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *body])
    return str(path)


def find(task, text):
    return next(row for split in task.splits.values() for row in split if row["input"] == text)


def inputs(task):
    return sorted(text for split in task.splits.values() for text in split["input"])


@pytest.fixture
def stars(tmp_path):
    return write(tmp_path / "stars.csv", ["review", "stars"], [[f"film {i}", i % 2] for i in range(20)])


GUESSES = {
    "text,label": "text: {text}",
    "sentence,label": "text: {sentence}",
    "review,sentiment": "text: {review}",
    "question,label": "question: {question}",
    "premise,hypothesis,label": "premise: {premise} hypothesis: {hypothesis}",
    "hypothesis,premise,gold_label": "premise: {premise} hypothesis: {hypothesis}",
    "question,passage,answer": "question: {question} context: {passage}",
    "context,question,label": "question: {question} context: {context}",
    "sentence1,sentence2,label": "sentence 1: {sentence1} sentence 2: {sentence2}",
    "Sentence_1,Sentence_2,Label": "sentence 1: {Sentence_1} sentence 2: {Sentence_2}",
    "claim,evidence,label": "claim: {claim} evidence: {evidence}",
    "title,body,category": "title: {title} text: {body}",
    "id,text,label": "text: {text}",
    "text,body,label": "text: {text} body: {body}",
}


@pytest.mark.parametrize("header", GUESSES)
def test_obvious_columns_are_joined_as_name_and_value(header):
    names = header.split(",")
    made = table(**{name: ["some text", "more"] for name in names})
    columns, notes = complete(Columns(), made)
    assert columns.template == GUESSES[header]
    assert f"input: {columns.template}" in notes


def test_a_column_called_input_is_taken_as_it_stands(tmp_path):
    path = write(tmp_path / "t.csv", ["input", "label"], [[f"x  {i}", "ab"[i % 2]] for i in range(10)])
    assert inputs(load_task(path))[0] == "x  0"


def test_the_only_text_column_is_the_input_whatever_its_name(tmp_path):
    path = write(tmp_path / "t.csv", ["id", "gripe", "label"], [[i, f"x {i}", "ab"[i % 2]] for i in range(10)])
    task = load_task(path)
    assert inputs(task)[0] == "x 0"
    assert "input: column 'gripe'" in task.notes


def test_two_unknown_text_columns_are_not_guessed():
    with pytest.raises(DataError, match="several columns could be the input") as caught:
        complete(Columns(), table(gripe=["a"], reply=["b"], label=["x"]))
    assert "--template 'gripe: {gripe} reply: {reply}'" in caught.value.hint


def test_columns_choices_and_template_by_arguments(stars):
    task = load_task(stars, input_column="review", label_column="stars", choices=["bad", "good"])
    assert inputs(task)[0] == "film 0"
    assert task.labels == ["bad", "good"]
    assert find(task, "film 3")["label"] == 1
    task = load_task(stars, template="film review: {review}", choices=["bad", "good"])
    assert inputs(task)[0] == "film review: film 0"
    assert task.fields == ("film review",)


def test_several_input_columns_are_joined(tmp_path):
    body = [[f"q{i}", f"p{i}", "no"] for i in range(5)] + [[f"q{i}", f"p{i}", "yes"] for i in range(5, 10)]
    path = write(tmp_path / "t.csv", ["q", "p", "label"], body)
    assert inputs(load_task(path, input_column=["q", "p"]))[0] == "q: q0 p: p0"
    assert inputs(load_task(path, input_column="p, q"))[0] == "p: p0 q: q0"
    assert inputs(load_task(path, template="question: {q} context: {p}"))[0] == "question: q0 context: p0"


def test_labels_may_be_the_choices_texts_in_any_case(tmp_path):
    path = write(tmp_path / "t.csv", ["text", "label"], [[f"x{i}", ["No", "YES"][i % 2]] for i in range(10)])
    task = load_task(path, choices="no,yes")
    assert task.labels == ["no", "yes"]
    assert find(task, "text: x1")["label"] == 1


def test_labels_that_count_from_one_are_understood_and_told(tmp_path):
    path = write(tmp_path / "t.csv", ["text", "label"], [[f"x{i}", i % 3 + 1] for i in range(30)])
    task = load_task(path, choices=["low", "middle", "high"])
    assert find(task, "text: x2")["label"] == 2
    assert any("count from 1" in note for note in task.notes)


def test_labels_beyond_the_choices_are_refused_even_when_they_start_at_one(tmp_path):
    path = write(tmp_path / "t.csv", ["text", "label"], [[f"x{i}", i % 3 + 1] for i in range(30)])
    with pytest.raises(DataError, match=r"line 3: label '2'"):
        load_task(path, choices=["low", "high"])


def test_a_label_text_column_gives_numbers_their_words(tmp_path):
    body = [[f"x{i}", i % 2, ["neg", "pos"][i % 2]] for i in range(10)]
    path = write(tmp_path / "t.csv", ["text", "label", "label_text"], body)
    assert load_task(path).labels == ["neg", "pos"]


@pytest.mark.parametrize("answer", ["B", "b", "1", "second 3"])
def test_choices_in_columns_of_their_own(answer, tmp_path):
    body = [[f"q{i}", f"first {i}", f"second {i}", "A"] for i in range(10)]
    body[3][3] = answer
    path = write(tmp_path / "t.csv", ["question", "choice1", "choice2", "answer"], body)
    task = load_task(path)
    row = find(task, "question: q3")
    assert row["choices"] == ["first 3", "second 3"]
    assert row["label"] == 1
    assert task.kind == "multiple_choice"


@pytest.mark.parametrize("marks", [[str(n) for n in range(1, 13)], list("ABCDEFGH"), ["0", "1"]])
def test_all_columns_of_choices_are_found_in_their_order(marks, tmp_path):
    header = ["question", *(f"choice{mark}" for mark in reversed(marks)), "answer"]
    body = [[f"q{i}", *(f"{mark} {i}" for mark in reversed(marks)), f"{marks[-1]} {i}"] for i in range(10)]
    row = find(load_task(write(tmp_path / "t.csv", header, body)), "question: q3")
    assert row["choices"] == [f"{mark} 3" for mark in marks]
    assert row["label"] == len(marks) - 1


def test_the_word_for_many_choices_is_not_one_of_them():
    made = table(question=["q"], answerA=["a"], answerB=["b"], answers=["two"], label=[0])
    assert complete(Columns(), made)[0].choice_columns == ("answerA", "answerB")


@pytest.mark.parametrize("cell", ['["a, b", "c"]', "a, b|c"])
def test_a_list_of_choices_in_one_cell(cell, tmp_path):
    body = [[f"q{i}", cell.replace("c", f"c{i}"), 1] for i in range(10)]
    task = load_task(write(tmp_path / "t.csv", ["text", "choices", "label"], body))
    assert task.train[0]["choices"][0] == "a, b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choices": ["yes"]}, "at least two"),
        ({"choices": ["yes", "yes"]}, "stands there twice"),
        ({"choices": "yes,"}, "one is blank"),
        ({"template": "no column"}, "names no column"),
        ({"template": "open {brace"}, "template"),
        ({"template": "{a:>3}"}, "only plain column names"),
        ({"template": "{}"}, "only plain column names"),
        ({"template": "{a}", "input_column": "a"}, "an input column and a template"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message, stars):
    with pytest.raises(ConfigError, match=message):
        load_task(stars, **arguments)


def test_a_template_naming_an_absent_column_lists_the_columns(stars):
    with pytest.raises(DataError, match="no column 'revew'"):
        load_task(stars, template="{revew}", choices=["bad", "good"])


def test_a_limit_cuts_the_longest_value_after_a_word():
    made = table(q=["is it so"], p=["one two three four five six"])
    text = Template.parse("question: {q} context: {p}").fill(made, limit=45)[0]
    assert text == "question: is it so context: one two three"


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4), st.integers(10, 60))
def test_filled_templates_respect_the_limit_and_single_spaces(values, limit):
    template = Template.join([(f"f{i}", f"c{i}") for i in range(len(values))])
    made = Table("t", {f"c{i}": [value] for i, value in enumerate(values)}, [1])
    text = template.fill(made, limit=limit)[0]
    if text is not None:
        assert "  " not in text
        assert len(text) <= max(limit, 4 * len(values))
