"""Rows to be answered: labels are neither needed nor looked at."""

from __future__ import annotations

import json

import pytest

from transfer.errors import DataError
from transfer.tasks import load_rows, load_task


def test_rows_keep_the_order_of_the_file_and_need_no_label(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,review\n1,fine\n2,poor\n")
    rows, fields, notes, deltas = load_rows(path, choices=["bad", "good"])
    assert rows == [{"input": f"text: {word}", "choices": ["bad", "good"]} for word in ("fine", "poor")]
    assert fields == ("text",)
    assert notes == ("input: text: {review}",)
    assert deltas == ()


def test_labels_in_the_file_are_passed_over_even_broken_ones(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("text,label\nfine,99\npoor,\n")
    assert len(load_rows(path, choices="bad,good")[0]) == 2


def test_each_rows_own_choices_are_taken(tmp_path):
    path = tmp_path / "new.jsonl"
    made = [{"input": "pick", "choices": ["a", "b"]}, {"input": "again", "choices": ["c", "d", "e"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    assert load_rows(path) == (made, (), (), ())


def test_without_choices_the_answer_is_to_be_written(tmp_path):
    path = tmp_path / "new.tsv"
    path.write_text("q\tp\na\tb\n")
    assert load_rows(path, template="question: {q} context: {p}") == (
        [{"input": "question: a context: b"}],
        ("question", "context"),
        (),
        (),
    )


def test_guessed_columns_are_told(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,phrase,option a,option b\n1,pick,yes,no\n")
    assert load_rows(path).notes == ("choices: option a, option b", "input: column 'phrase'")


def test_a_blank_row_is_named(tmp_path):
    path = tmp_path / "new.jsonl"
    path.write_text('{"input": "a"}\n{"input": " "}\n')
    with pytest.raises(DataError, match=r"new.jsonl, line 2: the input is blank"):
        load_rows(path)


def test_a_column_of_deltas_is_no_input(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("phrase,by\nfine,films\npoor, \nold,hotels\n")
    with pytest.raises(DataError, match="several columns could be the input"):
        load_rows(path)
    found = load_rows(path, delta_column="by")
    assert found.deltas == ("films", None, "hotels")
    assert [row["input"] for row in found.rows] == ["fine", "poor", "old"]
    with pytest.raises(DataError, match=r"(?s)no column 'who'.*--delta-column"):
        load_rows(path, delta_column="who")


@pytest.mark.parametrize(
    "header",
    ["text,topic", "tweet,target", "body_of_mail,sentiment", "phrase,topic", "question,answer", "input,target"],
)
def test_the_input_is_that_of_training_though_the_answers_are_there(header, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text(header + "\n" + "".join(f"words {i},{['sports', 'news'][i % 2]}\n" for i in range(40)))
    trained = [row["input"] for split in load_task(str(path)).splits.values() for row in split]
    assert sorted(row["input"] for row in load_rows(path).rows) == sorted(trained)


def test_a_column_that_may_be_the_label_or_the_input_is_told(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("tweet,target\nfine,films\n")
    whole = "target: {target} text: {tweet}"
    assert load_rows(path).notes[-1] == (
        f"column 'target' is taken for the label; if it is part of the input: --template '{whole}'"
    )
    assert load_rows(path, template=whole).notes == ()
    assert load_rows(path, choices="for,against").notes == (f"input: {whole}",), "none of its values is an answer"
    path.write_text("tweet,target,label\nfine,films,for\n")
    assert load_rows(path).notes == (f"input: {whole}",)


def test_a_column_with_a_labels_name_is_the_input_where_it_is_the_only_one(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,topic\n1,films\n")
    assert load_rows(path).rows == [{"input": "topic: films"}]


def test_inputs_are_built_as_a_delta_was_trained_where_the_file_has_the_columns(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,review\n1,fine\n")
    assert load_rows(path, choices="bad,good").rows[0]["input"] == "text: fine"
    found = load_rows(path, choices="bad,good", trained="{review}")
    assert found.rows[0]["input"] == "fine"
    assert found.notes == ()
    path.write_text("id,review\n1,fine  film\n")  # a single column is taken as it stands, a template is not
    assert load_rows(path, choices="bad,good", trained="{review}").rows[0]["input"] == "fine  film"
    assert load_rows(path, choices="bad,good", trained="film: {review}").rows[0]["input"] == "film: fine film"
    path.write_text("id,review\n1,fine\n")
    told = load_rows(path, choices="bad,good", template="film: {review}", trained="{review}")
    assert told.rows[0]["input"] == "film: fine"
    assert told.notes == ("the delta was trained on inputs like '{review}', not 'film: {review}'",)
    other = load_rows(path, choices="bad,good", trained="question: {q}")  # it has no such column
    assert other.rows[0]["input"] == "text: fine"
    assert "the delta was trained on inputs like 'question: {q}', not 'text: {review}'" in other.notes
    assert load_rows(path, choices="bad,good", trained="{input}").notes == ("input: text: {review}",)
    assert load_rows(path, choices="bad,good", trained="{broken").rows[0]["input"] == "text: fine"


@pytest.mark.parametrize("bad", [3, {"de": "gut"}])
def test_a_column_of_texts_with_something_else_in_it_is_not_passed_over(tmp_path, bad):
    path = tmp_path / "new.jsonl"
    rows = [{"text": "fine film", "answer": "yes", "note": "aa"}, {"text": bad, "answer": "no", "note": "bb"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"new.jsonl, line 2: 'text' is a (int|dict) where text should be"):
        load_rows(path, choices="no,yes")
    assert load_rows(path, choices="no,yes", input_column="note").rows[1]["input"] == "bb"


def test_a_label_is_no_input_even_where_there_is_nothing_else(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,label\n1,good\n2,bad\n")
    with pytest.raises(DataError, match="no column is obviously the input"):
        load_rows(path, choices="bad,good")
    path.write_text("topic\nthe sea\n")  # a name of inputs, too
    assert load_rows(path, choices="bad,good").rows[0]["input"] == "topic: the sea"
