"""Broken files of every format: each is refused by file and line, with a remedy."""

from __future__ import annotations

import contextlib
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfer.errors import DataError, TransferError
from transfer.tasks import load_rows, load_task
from transfer.tasks.readers import read

GOOD = '{"input": "a", "choices": ["no", "yes"], "label": 0}\n'


def refused(path, content=None):
    """The error of loading `path`, with `content` written into it first."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        load_task(str(path))
    return caught.value


BROKEN = {
    # name: (file, content, what the first line has to say)
    "broken line": ("t.jsonl", GOOD + '{"input": "b", \n' + GOOD, "line 2: broken JSON"),
    "not an object": ("t.jsonl", GOOD + "[1, 2]\n", "line 2: a list where an object should be"),
    "indented JSON": ("t.jsonl", '[\n  {"input": "a"}\n]\n', "line 1: broken JSON"),
    "not UTF-8": ("t.jsonl", GOOD.encode() * 2 + b'{"input": "caf\xe9"}\n', "line 3: not UTF-8 (byte 0xe9)"),
    "UTF-16": ("t.csv", "text,label\nx,y\n".encode("utf-16"), "not UTF-8 (it is UTF-16)"),
    "zero bytes": ("t.csv", b"text,label\na,\0\n", "line 2: not a text file"),
    "empty file": ("t.jsonl", "", "is empty"),
    "blank lines only": ("t.jsonl", "\n\n", "has no rows"),
    "header only": ("t.csv", "text,label\n", "has no rows"),
    "ragged CSV": ("t.csv", "text,label\na,yes\nb,no,maybe\n", "line 3: 3 values for 2 columns"),
    "ragged TSV": ("t.tsv", "text\tlabel\na\tyes\nb\n", "line 3: 1 values for 2 columns"),
    "header twice": ("t.csv", "text,label,text\na,yes,b\n", "line 1: 1 column name used twice: 'text'"),
    "open quote": ("t.csv", 'text,label\n"a,yes\nb,no\n', "line 2: broken CSV"),
    "stray quote": ("t.csv", 'text,label\n"a"b,yes\n', "line 2: broken CSV"),
    "semicolons": ("t.csv", "text;label\na;yes\n", "the values seem to be separated by ';'"),
    "tabs in a CSV": ("t.csv", "text\tlabel\na\tyes\n", "separated by a tab"),
    "not parquet": ("t.parquet", "text,label\n", "as parquet"),
    "other type": ("t.xlsx", "PK", "files of type .xlsx are not task data"),
    "JSON": ("t.json", "[]", "files of type .json are not task data"),
    "no label in a row": ("t.jsonl", GOOD + '{"input": "b", "choices": ["no", "yes"]}\n', "line 2: no 'label'"),
    "no input in a row": ("t.jsonl", GOOD + '{"choices": ["no", "yes"], "label": 1}\n', "line 2: the input is blank"),
    "input is a number": (
        "t.jsonl",
        '{"input": 3, "choices": ["no", "yes"], "label": 1}\n',
        "line 1: 'input' is a int",
    ),
    "no choices in a row": ("t.jsonl", GOOD + '{"input": "b", "label": 0}\n', "line 2: no list of choices"),
    "one choice": ("t.jsonl", '{"input": "b", "choices": ["no"], "label": 0}\n', "line 1: choices: at least two"),
    "a choice twice": ("t.jsonl", '{"input": "b", "choices": ["a", "a"], "label": 0}\n', "stands there twice"),
    "a blank choice": ("t.jsonl", '{"input": "b", "choices": ["a", " "], "label": 0}\n', "one is blank"),
    "label too high": ("t.jsonl", GOOD + GOOD.replace("0", "2"), "line 2: label 2 in 'label' is none of the 2"),
    "label below zero": ("t.jsonl", GOOD.replace("0", "-1"), "line 1: label -1"),
    "label with a fraction": ("t.jsonl", GOOD.replace("0", "0.5"), "line 1: label 0.5"),
    "label is NaN": ("t.jsonl", GOOD.replace("0", "NaN"), "line 1: label nan"),
    "label is no choice": ("t.jsonl", GOOD.replace("0", '"maybe"'), "line 1: label 'maybe'"),
    "no label column": ("t.csv", "text,other\na,b\n", "no column is obviously the label"),
    "no input column": ("t.csv", "label,label_id\nyes,1\nno,0\n", "no column is obviously the input"),
    "numbers without words": ("t.csv", "text,label\na,0\nb,1\n", "are numbers without words"),
    "regression": ("t.csv", "text,label\na,0.25\nb,1.0\n", "this is a regression task"),
    "a scale": ("t.csv", "text,score\n" + "".join(f"a{i},{i}\n" for i in range(40)), "this is a regression task"),
    "multi-label": ("t.jsonl", '{"text": "a", "labels": ["x", "y"]}\n', "this is a multi-label task"),
    "token-level": ("t.jsonl", '{"tokens": ["a", "b"], "ner_tags": [0, 1]}\n', "this is a token-level task"),
    "token-level labels": ("t.jsonl", '{"tokens": ["a", "b"], "labels": [0, 1]}\n', "this is a token-level task"),
    "one label": ("t.csv", "text,label\na,yes\nb,yes\nc,yes\n", "every label in 'label' is 'yes'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_names_file_line_and_remedy(case, tmp_path):
    name, content, message = BROKEN[case]
    error = refused(tmp_path / name, content)
    assert message in error.asked
    assert name in error.asked
    assert error.hint or error.found, "says what to do or what is there"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name], "nothing half-done is left behind"


def test_a_missing_file_lists_its_neighbours(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    assert "reviews.csv" in refused(tmp_path / "revews.csv").found


def test_a_missing_column_lists_those_that_are_there(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("review,stars\ngood,yes\n")
    with pytest.raises(DataError, match="has no column 'rating'") as caught:
        load_task(str(path), input_column="review", label_column="rating")
    assert caught.value.found == "columns 'review', 'stars'"


class TestFolders:
    def test_without_splits_lists_what_is_there(self, tmp_path):
        (tmp_path / "notes.md").write_text("x")
        error = refused(tmp_path)
        assert "has no splits" in error.asked
        assert error.found == "notes.md"
        assert "train, dev and test" in error.hint

    def test_of_tasks_names_them(self, tmp_path):
        (tmp_path / "boolq").mkdir()
        (tmp_path / "boolq" / "train.jsonl").write_text(GOOD)
        assert refused(tmp_path).found == "folders that hold tasks: boolq/"

    def test_without_train_is_refused(self, tmp_path):
        (tmp_path / "test.jsonl").write_text(GOOD)
        assert "has no train split" in refused(tmp_path).asked

    def test_with_a_split_twice_is_refused(self, tmp_path):
        for name in ("train.jsonl", "dev.jsonl", "validation.csv"):
            (tmp_path / name).write_text(GOOD)
        error = refused(tmp_path)
        assert "has two dev splits" in error.asked
        assert error.found == "dev.jsonl, validation.csv"

    def test_with_an_empty_split_is_refused(self, tmp_path):
        (tmp_path / "train.jsonl").write_text(GOOD)
        (tmp_path / "test.jsonl").write_text("")
        assert refused(tmp_path).asked.endswith("test.jsonl is empty")

    def test_with_a_broken_task_json_is_refused(self, tmp_path):
        (tmp_path / "train.jsonl").write_text(GOOD)
        (tmp_path / "task.json").write_text('{\n"kind": }')
        assert "task.json, line 2: broken JSON" in refused(tmp_path).asked

    @pytest.mark.parametrize("kind", ["regression", "multi-label", "token-level"])
    def test_of_a_refused_kind_are_refused_by_name(self, kind, tmp_path):
        (tmp_path / "train.jsonl").write_text(GOOD)
        (tmp_path / "task.json").write_text(json.dumps({"kind": kind.replace("-", "_")}))
        assert f"is a {kind} task" in refused(tmp_path).asked

    def test_whose_kind_is_contradicted_name_the_line(self, tmp_path):
        (tmp_path / "task.json").write_text('{"kind": "classification"}')
        (tmp_path / "train.jsonl").write_text(GOOD + GOOD.replace('"yes"', '"oui"'))
        assert "train.jsonl, line 2: other choices" in refused(tmp_path).asked


FORMAT_ROWS = {"text": ["good, really", 'she said "bad"', "fine"] * 4, "label": ["pos", "neg", "pos"] * 4}


class TestFormats:
    def test_csv_tsv_and_parquet_give_the_same_task(self, tmp_path):
        data = datasets.Dataset.from_dict(FORMAT_ROWS)
        data.to_csv(tmp_path / "t.csv")
        lines = [f"{t}\t{label}" for t, label in zip(FORMAT_ROWS["text"], FORMAT_ROWS["label"], strict=True)]
        (tmp_path / "t.tsv").write_text("text\tlabel\n" + "\n".join(lines))
        data.to_parquet(tmp_path / "t.parquet")
        prints = {load_task(str(tmp_path / f"t.{kind}")).fingerprint for kind in ("csv", "tsv", "parquet")}
        assert len(prints) == 1

    def test_label_names_in_parquet_become_the_choices(self, tmp_path):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["not_spam", "spam"])}
        )
        made = {"text": [f"t{i}" for i in range(10)], "label": [0, 1] * 5}
        datasets.Dataset.from_dict(made, features).to_parquet(tmp_path / "t.parquet")
        task = load_task(str(tmp_path / "t.parquet"))
        assert task.labels == ["not spam", "spam"]

    def test_parts_of_a_split_are_joined(self, tmp_path):
        for part in range(2):
            table = pa.table({"text": [f"{part} {i}" for i in range(4)], "label": ["a", "b"] * 2})
            pq.write_table(table, tmp_path / f"train-0000{part}-of-00002.parquet")
            pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")
        assert load_task(str(tmp_path)).sizes["test"] == 4
        assert "text: 1 3" in read_all(tmp_path)

    def test_a_byte_order_mark_and_windows_line_ends_are_no_trouble(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_bytes("\ufefftext,label\r\na b,x\r\nc,y\r\nd,x\r\n".encode())
        assert list(read(path).columns) == ["text", "label"]
        (tmp_path / "t.tsv").write_bytes(b"text\tlabel\r\na\tx\r\n")
        assert read(tmp_path / "t.tsv").columns["label"] == ["x"]

    def test_lines_are_counted_through_quoted_line_ends(self, tmp_path):
        path = tmp_path / "t.csv"
        path.write_text('text,label\n"two\nlines",x\n\nlast,y\n')
        assert list(read(path).lines) == [2, 5]

    def test_a_line_separator_inside_a_json_string_ends_no_line(self, tmp_path):
        path = tmp_path / "t.jsonl"
        path.write_text(json.dumps({"input": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
        assert read(path).columns["input"] == ["a\u2028b"]

    def test_half_a_character_is_replaced_and_told(self, tmp_path):
        rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]
        rows[3] = {"text": "whole \U0001f600, then half \ud83d", "label": "half \ude00"}
        rows[4] = {"text": "no half: \\ud83d", "label": "a"}
        (tmp_path / "t.jsonl").write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
        assert read(tmp_path / "t.jsonl").columns["label"][3] == "half \ufffd"
        assert {"text: whole \U0001f600, then half \ufffd", "text: no half: \\ud83d"} < set(
            read_all(tmp_path / "t.jsonl")
        )
        note = "t.jsonl: 1 lines with half a character, read as U+FFFD; the first is line 5"
        assert sum(told.endswith(note) for told in load_task(str(tmp_path / "t.jsonl")).notes) == 1
        assert load_rows(tmp_path / "t.jsonl").notes[0].endswith(note)


def read_all(path):
    task = load_task(str(path))
    return [text for split in task.splits.values() for text in split["input"]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]),
    content=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='{}[]":,\n\r\t ;|01ainputlbechos', max_size=200).map(str.encode),
    ),
)
def test_any_bytes_give_a_task_or_a_typed_error(suffix, content, tmp_path):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(TransferError):
        load_task(str(path))
