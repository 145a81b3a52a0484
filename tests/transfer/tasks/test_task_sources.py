"""Sources: which one is asked, in what order, and what is said when none has the task."""

from __future__ import annotations

import json
import re

import pytest

from transfer.errors import ConfigError, DataError, UnknownNameError
from transfer.tasks import list_tasks, load_task
from transfer.tasks.sources import is_path

ROW = {"input": "text: a", "choices": ["no", "yes"], "label": 0}


def make(folder, **task):
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(ROW | {"input": f"text: {split}"}) + "\n")
    if task:
        (folder / "task.json").write_text(json.dumps(task))


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    root = tmp_path / "tasks"
    make(root / "boolq", category="yes_no_qa", license="CC0", n_train=1, n_dev=1, n_test=1)
    make(root / "mine")
    monkeypatch.setenv("TRANSFER_TASKS", str(root))
    return root


@pytest.mark.parametrize(
    ("name", "path"), [("boolq", False), ("a/b", True), ("./boolq", True), ("reviews.csv", True), ("a-b_1", False)]
)
def test_a_name_is_a_path_only_with_a_separator_or_a_suffix(name, path):
    assert is_path(name) == path


def test_the_tasks_folder_goes_before_the_sample(tasks):
    task = load_task("boolq")
    assert (task.origin, task.license, len(task.train)) == ("folder", "CC0", 1)
    assert str(tasks) in task.source


def test_a_source_can_be_forced(tasks):
    assert load_task("boolq", source="sample").origin == "sample"
    assert load_task("boolq", source="folder").origin == "folder"
    assert load_task(str(tasks / "mine"), source="path").origin == "path"
    with pytest.raises(UnknownNameError, match="no task named 'mine'"):
        load_task("mine", source="sample")
    with pytest.raises(ConfigError, match="no source 'web'"):
        load_task("boolq", source="web")


def test_a_folder_of_the_same_name_here_is_not_a_task_but_is_mentioned(tmp_path, monkeypatch):
    make(tmp_path / "chores")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        load_task("chores")
    assert "./chores" in caught.value.hint
    assert load_task("./chores").origin == "path"
    assert load_task("chores", source="path").origin == "path"


def test_an_unknown_name_lists_what_was_tried_and_the_closest(tasks):
    with pytest.raises(UnknownNameError) as caught:
        load_task("mime")
    assert caught.value.asked == "no task named 'mime'"
    assert "$TRANSFER_TASKS" in caught.value.found
    assert "the Hub (not in the catalogue)" in caught.value.found
    assert "the samples (not among them)" in caught.value.found
    assert "did you mean mine" in caught.value.hint


def test_a_hub_id_taken_for_a_path_says_how_to_ask_the_hub():
    with pytest.raises(DataError) as caught:
        load_task("google/boolq")
    assert "--source hub" in caught.value.hint


def test_a_tasks_folder_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("TRANSFER_TASKS", "/nowhere/at/all")
    with pytest.raises(ConfigError, match="TRANSFER_TASKS is /nowhere/at/all"):
        load_task("boolq")


@pytest.mark.parametrize("name", ["..", "", "  "])
def test_names_that_would_leave_the_folder_are_refused(name, tasks):
    with pytest.raises((ConfigError, DataError, UnknownNameError)):
        load_task(name, source="folder")


def test_names_from_files_are_made_fit_for_a_zoo(tmp_path):
    make(tmp_path / "My Own (2nd) Task!")
    assert load_task(str(tmp_path / "My Own (2nd) Task!")).name == "my_own_2nd_task"


@pytest.mark.parametrize(
    ("name", "slug"), [("Données", "donnees"), ("Über uns", "uber_uns"), ("x-1_y", "x-1_y"), ("!?", "task")]
)
def test_accents_are_dropped_from_names(name, slug, tmp_path):
    make(tmp_path / name)
    assert load_task(str(tmp_path / name)).name == slug


def test_names_in_other_scripts_are_told_apart(tmp_path):
    names = ["отзывы", "тексты", "评论", "评论 2", "评论 (2)"]
    for name in names:
        make(tmp_path / name)
    found = [load_task(str(tmp_path / name)).name for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"(task|2)_[0-9a-f]{8}", name) for name in found)
    assert found[0] == load_task(f"{tmp_path}/отзывы/").name


@pytest.mark.parametrize("source", [None, "folder", "sample"])
def test_a_name_too_long_for_a_file_is_unknown(source, tasks):
    with pytest.raises(UnknownNameError, match="no task named"):
        load_task("x" * 300, source=source)


@pytest.mark.parametrize("name", ["./" + "x" * 300, "x" * 300 + "/y", "x" * 300 + ".csv", "./" + "x/" * 3000])
def test_a_path_too_long_for_a_file_leads_nowhere(name):
    with pytest.raises(DataError, match="no file"):
        load_task(name)


def test_a_folder_with_the_longest_name_there_can_be_is_read(tmp_path):
    make(tmp_path / ("x" * 250))
    assert load_task(str(tmp_path / ("x" * 250))).name == "x" * 250


def test_listing_shows_every_source_without_loading(tasks):
    rows = {row.name: row for row in list_tasks()}
    assert rows["mine"].where == ("folder",)
    assert rows["boolq"].where == ("folder", "hub", "sample")
    assert rows["boolq"].sizes == {"train": 1, "dev": 1, "test": 1}
    assert rows["boolq"].license == "CC0"
    assert rows["rte"].where == ("hub",)
    assert (rows["rte"].category, rows["rte"].hub, rows["rte"].sizes) == ("nli", "nyu-mll/glue", None)
    assert rows["sentiment"].where == ("sample",)
    assert list(rows) == sorted(rows)
