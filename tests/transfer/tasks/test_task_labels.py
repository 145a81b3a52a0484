"""Labels and choices that are numbers: one reading for a whole column, the same whatever the file's format."""

from __future__ import annotations

import json

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


def test_a_number_that_is_neither_is_refused(tmp_path):
    rows = [{"text": f"film {i}", "label": 7 if i == 3 else 1} for i in range(10)]
    with pytest.raises(DataError, match="label 7"):
        load_task(written(tmp_path, "jsonl", rows), choices=["1", "2"])


def test_a_very_long_value_is_read(tmp_path):
    rows = [{"text": "x" * 140_000 + f" film {i}", "label": i % 2} for i in range(4)]
    assert len(answers(written(tmp_path, "csv", rows), choices=["no", "yes"])) == 4
