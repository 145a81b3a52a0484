"""Labels and choices that are numbers: one reading for a whole column, the same whatever the file's format."""

from __future__ import annotations

import json

import datasets
import pytest

from transfer.errors import DataError
from transfer.tasks import load_task


def written(folder, end, rows):
    path = folder / f"t.{end}"
    if end == "csv":
        names = list(rows[0])
        lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answers(path, **settings):
    """Last word of the input -> the right answer, over all splits."""
    task = load_task(path, **settings)
    rows = [row for split in task.splits.values() for row in split]
    return {row["input"].split()[-1]: row["choices"][row["label"]] for row in rows}


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_a_number_among_choices_that_are_numbers_is_that_choice(end, tmp_path):
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(20)]
    found = answers(written(tmp_path, end, rows), choices=["1", "0"])
    assert found == {str(i): str(i % 2) for i in range(20)}


@pytest.mark.parametrize("end", ["csv", "jsonl"])
@pytest.mark.parametrize("most", [4, 5])
def test_stars_are_the_stars_even_where_none_has_the_most(end, most, tmp_path):
    rows = [{"text": f"film {i}", "label": 1 + i % most} for i in range(40)]
    found = answers(written(tmp_path, end, rows), choices=["1", "2", "3", "4", "5"])
    assert found == {str(i): str(1 + i % most) for i in range(40)}


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_positions_are_positions_even_where_some_of_them_are_choices(end, tmp_path):
    rows = [{"text": f"film {i}", "label": i % 5} for i in range(50)]
    found = answers(written(tmp_path, end, rows), choices=["1", "2", "3", "4", "5"])
    assert found == {str(i): str(1 + i % 5) for i in range(50)}


def test_all_splits_are_read_the_same_way(tmp_path):
    for split, least in (("train", 0), ("dev", 1), ("test", 1)):
        rows = [{"text": f"{split} L{i}", "label": i} for i in range(least, 5)]
        written(tmp_path, "jsonl", rows)
        (tmp_path / "t.jsonl").rename(tmp_path / f"{split}.jsonl")
    found = answers(str(tmp_path), choices=["1", "2", "3", "4", "5"])
    assert found == {f"L{i}": str(i + 1) for i in range(5)}


def test_all_splits_are_read_the_same_way_where_rows_have_their_own_choices(tmp_path):
    for split, least in (("train", 0), ("dev", 1), ("test", 1)):
        rows = [
            {"text": f"{split} L{i}", "choices": ["1", "2", "3", str(4 + i)], "label": str(i)} for i in range(least, 3)
        ]
        written(tmp_path, "jsonl", rows)
        (tmp_path / "t.jsonl").rename(tmp_path / f"{split}.jsonl")
    assert answers(str(tmp_path)) == {f"L{i}": str(i + 1) for i in range(3)}


def test_the_error_names_the_number_that_is_no_choice(tmp_path):
    rows = [{"text": f"film {i}", "label": 6 if i == 7 else 1 + i % 5} for i in range(40)]
    with pytest.raises(DataError, match="line 8: label 6"):
        load_task(written(tmp_path, "jsonl", rows), choices=["1", "2", "3", "4", "5"])


def test_numbers_that_are_no_choice_are_positions(tmp_path):
    rows = [{"text": f"film {i}", "label": i % 3} for i in range(30)]
    found = answers(written(tmp_path, "jsonl", rows), choices=["10", "20", "30"])
    assert found == {str(i): f"{10 * (1 + i % 3)}" for i in range(30)}


def test_a_column_of_positions_is_not_read_as_texts_where_one_happens_to_be_a_choice(tmp_path):
    """Some labels are texts of their row's choices, others are not: then all of them are positions."""
    rows = [{"text": f"2 + {i}", "choices": [str(i), str(i + 1), str(i + 2)], "label": "2"} for i in range(1, 21)]
    found = answers(written(tmp_path, "jsonl", rows))
    assert found == {str(i): str(i + 2) for i in range(1, 21)}


def test_texts_are_texts_where_every_row_has_its_label_among_its_choices(tmp_path):
    rows = [{"text": f"2 + {i}", "choices": [str(i), str(i + 2), "0"], "label": str(i + 2)} for i in range(1, 21)]
    found = answers(written(tmp_path, "jsonl", rows))
    assert found == {str(i): str(i + 2) for i in range(1, 21)}


def test_numbers_from_one_up_to_each_rows_choices_count_from_one(tmp_path):
    rows = [{"sentence": f"film {i}", "option1": f"a{i}", "option2": f"b{i}", "answer": 1 + i % 2} for i in range(40)]
    path = written(tmp_path, "csv", rows)
    assert answers(path) == {str(i): f"{'ab'[i % 2]}{i}" for i in range(40)}
    assert any("count from 1" in note for note in load_task(path).notes)


def test_numbers_that_never_reach_a_rows_last_choice_count_from_zero(tmp_path):
    rows = [{"text": f"film {i}", "choices": [f"a{i}", f"b{i}", f"c{i}"], "label": 1 + i % 2} for i in range(40)]
    found = answers(written(tmp_path, "jsonl", rows))
    assert found == {str(i): f"{'bc'[i % 2]}{i}" for i in range(40)}


@pytest.mark.parametrize("values", [[1, 2, "none"], [1.5, "x", 2], [True, False, "Depends"]])
def test_choices_read_from_the_data_are_found_by_their_texts(values, tmp_path):
    rows = [{"text": f"film {i}", "label": values[i % 3]} for i in range(30)]
    assert answers(written(tmp_path, "jsonl", rows)) == {str(i): str(values[i % 3]) for i in range(30)}


@pytest.mark.parametrize("values", [[1, 2, "none"], ["1", "2", "none"]])
def test_numbers_among_choices_of_words_are_these_choices(values, tmp_path):
    rows = [{"text": f"film {i}", "label": values[i % 3]} for i in range(30)]
    found = answers(written(tmp_path, "jsonl", rows), choices=["none", "1", "2"])
    assert found == {str(i): str(values[i % 3]) for i in range(30)}


def test_truth_values_are_found_among_choices_of_any_order(tmp_path):
    rows = [{"text": f"film {i}", "label": i % 2 == 0} for i in range(20)]
    found = answers(written(tmp_path, "jsonl", rows), choices=["true", "false"])
    assert found == {str(i): "false" if i % 2 else "true" for i in range(20)}


def test_a_number_that_is_neither_is_refused(tmp_path):
    rows = [{"text": f"film {i}", "label": 7 if i == 3 else 1} for i in range(10)]
    with pytest.raises(DataError, match="label 7"):
        load_task(written(tmp_path, "jsonl", rows), choices=["1", "2"])


def test_a_very_long_value_is_read(tmp_path):
    rows = [{"text": "x" * 140_000 + f" film {i}", "label": i % 2} for i in range(4)]
    assert len(answers(written(tmp_path, "csv", rows), choices=["no", "yes"])) == 4


def named(folder, names, n=40, values=None, name="t"):
    """A parquet file whose labels have names; the last word of an input is its label's name."""
    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    values = values or [i % len(names) for i in range(n)]
    made = {"text": [f"{name} {i} is {names[value or 0]}" for i, value in enumerate(values)], "label": values}
    datasets.Dataset.from_dict(made, datasets.Features(features)).to_parquet(folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def test_names_that_are_all_choices_are_these_choices_in_any_order(tmp_path):
    found = answers(named(tmp_path, ["bad", "very_good"]), choices=["very good", "bad"])
    assert found == {"bad": "bad", "very_good": "very good"}


@pytest.mark.parametrize("choices", [["poor", "so-so", "fine"], ["negative", "so-so", "positive"]])
def test_new_words_for_names_are_taken_in_the_order_of_the_names(choices, tmp_path):
    names = ["negative", "neutral", "positive"]
    assert answers(named(tmp_path, names, 60), choices=choices) == dict(zip(names, choices, strict=True))


def test_choices_that_leave_it_open_which_name_is_meant_are_refused(tmp_path):
    path = named(tmp_path, ["negative", "neutral", "positive"], 60)
    with pytest.raises(DataError, match="some names of the labels in 'label' are choices") as caught:
        load_task(path, choices=["positive", "negative", "mixed"])
    assert "no choice: 'neutral'" in caught.value.found


def test_a_split_whose_labels_are_hidden_counts_as_missing(tmp_path):
    named(tmp_path, ["no", "yes"], name="train")
    named(tmp_path, ["no", "yes"], values=[0, -1, 1, None], name="dev")
    named(tmp_path, ["no", "yes"], values=[-1] * 10, name="test")
    task = load_task(str(tmp_path))
    assert task.sizes == {"train": 36, "dev": 2, "test": 4}
    assert "dev: 2 rows without a label left out" in task.notes
    assert "test: no row has a label, so it counts as missing" in task.notes
    assert all(row["input"].endswith(row["choices"][row["label"]]) for row in task.dev)


def test_a_train_split_without_a_label_is_refused(tmp_path):
    with pytest.raises(DataError, match="no row has a label"):
        load_task(named(tmp_path, ["no", "yes"], values=[-1] * 10))


@pytest.mark.parametrize("end", ["csv", "jsonl"])
def test_positions_of_which_none_is_0_are_told(end, tmp_path):
    rows = [{"text": f"film {i}", "label": 1 + i % 4} for i in range(40)]
    path = written(tmp_path, end, rows)
    words = ["terrible", "bad", "fine", "good", "great"]
    assert "labels count from 0, and none is 0: 1 is 'bad'" in load_task(path, choices=words).notes
    assert answers(path, choices=words)["0"] == "bad"
    assert not any("none is 0" in note for note in load_task(path, choices=words[:4]).notes)  # these count from 1


def test_one_letter_written_in_two_ways_is_one_choice_and_capitals_are_told(tmp_path):
    rows = [{"text": f"film {i}", "label": ("caf\u00e9", "cafe\u0301", "no")[i % 3]} for i in range(30)]
    task = load_task(written(tmp_path, "jsonl", rows))
    assert task.labels == ["caf\u00e9", "no"]
    assert answers(written(tmp_path, "jsonl", rows), choices=["no", "caf\u00e9"])["1"] == "caf\u00e9"
    rows = [{"text": f"film {i}", "label": ("Yes", "yes", "no")[i % 3]} for i in range(30)]
    (note,) = (n for n in load_task(written(tmp_path, "jsonl", rows)).notes if "capitals" in n)
    assert note == "choices that differ in capitals alone are classes of their own: Yes, yes"
