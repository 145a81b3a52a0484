"""load_task from end to end: paths, folders, splits, draws."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import datasets
import pytest

from transfer.errors import ConfigError, DataError
from transfer.tasks import load_task


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(n, start=0):
    return [
        {"input": f"question: is {i} even context: numbers", "choices": ["no", "yes"], "label": int(i % 2 == 0)}
        for i in range(start, start + n)
    ]


@pytest.fixture
def folder(tmp_path):
    for split, (n, start) in {"train": (40, 0), "dev": (20, 100), "test": (30, 200)}.items():
        write_jsonl(tmp_path / "even" / f"{split}.jsonl", rows(n, start))
    return tmp_path / "even"


def test_a_folder_gives_a_task_with_the_agreed_columns(folder):
    task = load_task(str(folder))
    assert (task.name, task.kind, task.origin) == ("even", "classification", "path")
    assert task.train.column_names == ["input", "choices", "label"]
    assert isinstance(task.train, datasets.Dataset)
    assert task.train[0] == rows(1)[0]
    assert task.sizes == {"train": 40, "dev": 20, "test": 30}
    assert task.labels == ["no", "yes"]
    assert task.majority == 0.5
    assert task.fields == ("question", "context")
    assert task.notes == ()
    assert (task.metric, task.category, task.license) == ("accuracy", "other", "unknown")


def test_task_json_tells_category_metric_and_licence(folder):
    said = {"category": "maths", "kind": "classification", "metric": "macro_f1", "license": "CC0"}
    (folder / "task.json").write_text(json.dumps(said))
    task = load_task(str(folder))
    assert (task.category, task.metric, task.license) == ("maths", "macro_f1", "CC0")


def test_a_category_that_is_told_goes_before_that_of_the_data(folder):
    assert load_task(str(folder), category="parity").category == "parity"
    (folder / "task.json").write_text(json.dumps({"category": "numbers"}))
    assert load_task(str(folder)).category == "numbers"
    assert load_task(str(folder), category=" parity ").category == "parity"


def test_examples_limit_train_and_dev_but_never_test(folder):
    task = load_task(str(folder), examples=16)
    assert task.sizes == {"train": 16, "dev": 16, "test": 30}
    assert Counter(task.train["label"]) == {0: 8, 1: 8}
    assert task.examples == 16
    assert load_task(str(folder), examples=30).notes == ("dev has 20 rows, fewer than the 30 asked for",)


def test_the_same_seed_draws_the_same_rows_and_another_does_not(folder):
    one, same, other = (load_task(str(folder), examples=8, seed=seed) for seed in (1, 1, 2))
    assert one.train["input"][:] == same.train["input"][:]
    assert one.fingerprint == same.fingerprint
    assert one.train["input"][:] != other.train["input"][:]
    assert one.test["input"][:] == other.test["input"][:]


def test_the_fingerprint_is_of_the_data_not_of_the_place(folder, tmp_path):
    copy = tmp_path / "elsewhere"
    folder.rename(copy)
    here = load_task(str(copy)).fingerprint
    assert len(here) == 64
    line = (copy / "test.jsonl").read_text()
    (copy / "test.jsonl").write_text(line.replace("numbers", "digits", 1))
    assert load_task(str(copy)).fingerprint != here


def test_a_single_file_is_split_the_same_way_whatever_the_seed(tmp_path):
    path = write_jsonl(tmp_path / "even.jsonl", rows(100))
    task, other = load_task(str(path), seed=1), load_task(str(path), seed=2)
    assert task.sizes == {"train": 80, "dev": 10, "test": 10}
    assert Counter(task.test["label"]) == {0: 5, 1: 5}
    assert task.test["input"][:] == other.test["input"][:]
    assert "split 80/10/10" in task.notes[0]
    everything = [text for split in task.splits.values() for text in split["input"]]
    assert sorted(everything) == sorted(row["input"] for row in rows(100))


def test_a_split_column_is_followed(tmp_path):
    marked = [row | {"split": split} for row, split in zip(rows(6), ["train", "test", "validation"] * 2, strict=True)]
    task = load_task(str(write_jsonl(tmp_path / "even.jsonl", marked)))
    assert task.sizes == {"train": 2, "dev": 2, "test": 2}
    assert "column 'split'" in task.notes[0]


@pytest.mark.parametrize("column", ["Split", " SPLIT"])
def test_a_split_column_is_followed_in_any_spelling(column, tmp_path):
    said = ["Train", " test", "VALIDATION"] * 2
    marked = [row | {column: split} for row, split in zip(rows(6), said, strict=True)]
    assert load_task(str(write_jsonl(tmp_path / "even.jsonl", marked))).sizes == {"train": 2, "dev": 2, "test": 2}


@pytest.mark.parametrize("other", ["unsupervised", "", None, 3])
def test_a_split_column_with_other_words_is_refused(other, tmp_path):
    marked = [row | {"split": split} for row, split in zip(rows(4), ["train", "test", "dev", other], strict=True)]
    with pytest.raises(DataError, match=f"the column 'split' says {other!r}, which is no split"):
        load_task(str(write_jsonl(tmp_path / "even.jsonl", marked)))


def test_a_split_column_without_train_is_told(tmp_path):
    marked = [row | {"split": "AB"[i % 2]} for i, row in enumerate(rows(40))]
    task = load_task(str(write_jsonl(tmp_path / "even.jsonl", marked)))
    assert task.sizes == {"train": 32, "dev": 4, "test": 4}
    assert task.notes[0] == "the column 'split' is not followed: it says train on no row"


@pytest.mark.parametrize("column", ["text", "phrase", "input"])
def test_rows_of_symbols_alone_can_be_split(column, tmp_path):
    made = [{column: "😀😡🎉🔥"[i % 4] * (1 + i // 4), "label": "ab"[i % 2]} for i in range(40)]
    assert load_task(str(write_jsonl(tmp_path / "t.jsonl", made))).sizes == {"train": 32, "dev": 4, "test": 4}


def test_missing_splits_are_taken_off_train_and_told(folder):
    (folder / "test.jsonl").unlink()
    task = load_task(str(folder))
    assert task.sizes == {"train": 36, "dev": 20, "test": 4}
    assert task.notes == ("no test split: 4 rows were split off train for it",)
    (folder / "dev.jsonl").unlink()
    task = load_task(str(folder))
    assert task.sizes == {"train": 32, "dev": 4, "test": 4}
    assert len(task.notes) == 2


def test_rows_that_train_and_test_share_are_told(folder):
    write_jsonl(folder / "test.jsonl", rows(10, start=35))
    assert load_task(str(folder)).notes == ("5 of 10 test inputs stand in train too",)


def test_multiple_choice_keeps_each_rows_choices(tmp_path):
    made = [{"input": f"pick {i}", "choices": [f"{i}", f"{i + 1}", f"{i + 2}"], "label": i % 3} for i in range(30)]
    task = load_task(str(write_jsonl(tmp_path / "pick.jsonl", made)))
    assert task.kind == "multiple_choice"
    assert task.labels is None
    assert sorted(task.train.to_list() + task.dev.to_list() + task.test.to_list(), key=str) == sorted(made, key=str)


def test_generation_tasks_have_outputs(tmp_path):
    made = [{"input": f"count to {i}", "output": " ".join(map(str, range(i)))} for i in range(1, 31)]
    task = load_task(str(write_jsonl(tmp_path / "count.jsonl", made)), examples=5)
    assert (task.kind, task.metric, task.labels, task.majority) == ("generation", "rouge_l", None, 0.0)
    assert task.train.column_names == ["input", "output"]
    assert task.sizes == {"train": 5, "dev": 3, "test": 3}


def test_crossfit_files_are_read_by_folder_prefix_or_file(tmp_path):
    for split in ("train", "dev", "test"):
        lines = "".join(f"premise: {split} {i}\t{['entailment', 'neutral'][i % 2]}\n" for i in range(16))
        (tmp_path / f"glue-rte_16_13_{split}.tsv").write_text(lines)
    tasks = [
        load_task(str(tmp_path)),
        load_task(str(tmp_path / "glue-rte_16_13")),
        load_task(str(tmp_path / "glue-rte_16_13_train.tsv")),
    ]
    assert {task.fingerprint for task in tasks} == {tasks[0].fingerprint}
    assert tasks[1].name == tasks[2].name == "glue-rte_16_13"
    assert tasks[0].kind == "classification"
    assert tasks[0].labels == ["entailment", "neutral"]
    assert tasks[0].train["input"][0] == "premise: train 0"


def test_several_crossfit_draws_in_a_folder_ask_which(tmp_path):
    for draw in ("16_13", "16_21"):
        (tmp_path / f"boolq_{draw}_train.tsv").write_text("a\tyes\n")
    with pytest.raises(DataError, match="holds 2 CrossFit draws") as caught:
        load_task(str(tmp_path))
    assert caught.value.hint == f"choose one: {tmp_path / 'boolq_16_13'}"


def test_crossfit_texts_that_never_repeat_are_generation(tmp_path):
    for split in ("train", "dev", "test"):
        (tmp_path / f"sum_{split}.tsv").write_text("".join(f"{split} {i}\tsummary {split} {i}\n" for i in range(9)))
    assert load_task(str(tmp_path)).kind == "generation"


@pytest.mark.parametrize("examples", [0, -1, True])
def test_examples_must_be_positive(folder, examples):
    with pytest.raises(ConfigError, match="at least 1"):
        load_task(str(folder), examples=examples)


def test_too_few_rows_to_split_say_so(tmp_path):
    path = write_jsonl(tmp_path / "two.jsonl", rows(2))
    with pytest.raises(DataError, match="too few rows to split"):
        load_task(str(path))


def test_importing_the_package_is_light():
    code = (
        "import sys; import transfer.tasks; from transfer.tasks import list_tasks; list_tasks();"
        "heavy = {'torch', 'datasets', 'pyarrow', 'transformers', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
