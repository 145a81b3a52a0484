"""Calls that cannot be meant: told at once, in the words of the command line, with what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from transfer.cli.places import check_writable, training_in
from transfer.errors import ConfigError
from zoo.errors import PathError

COLUMNS = ("--input-column", "review", "--label-column", "verdict")


@pytest.mark.parametrize(
    "words",
    [
        *(
            ((name, "--target", "boolq", "--seed", seed))
            for name in ("init", "score", "finetune")
            for seed in (-1, 2**32)
        ),
        *((name, "--target", "boolq", "--examples", -5) for name in ("init", "score", "finetune")),
        ("zoo", "build", "--tasks", "t", "--out", "o", "--seed", -1),
        ("score", "--target", "boolq", "--top", -3),
        ("tasks", "show", "boolq", "--rows", -2),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_numbers_outside_their_range_are_usage_errors(words, transfer):
    ran = transfer(*words)
    assert ran.code == 2
    assert f"Invalid value for '{words[-2]}'" in ran.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--how", "xyzzy"), "one of these names"),
        (("--merge", "xyzzy"), "one of these names"),
        (("--merge", "atuo"), "did you mean 'auto'?"),
        (("--merge", "linear", "--density", 0.5), "--merge dare or dare-ties or knots or ties"),
        (("--density", 0.5), "--merge dare or dare-ties or knots or ties"),
        (("--method", "adapter", "--scale", 0.5), "--merge task-arithmetic"),
        (("--auto", "--how", "best"), "leave out --auto, or --weighting"),
        (("--auto", "--no-guard"), "leave out --auto, or --no-guard"),
        (("--auto", "--rank", 3), "leave out --auto, or these"),
    ],
)
def test_init_says_what_to_do_before_anything_is_read(words, hint, transfer, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_task", None)
    ran = transfer("init", "--target", "boolq", "--out", tmp_path / "out", *words)
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == f"try:   {hint}"


def test_what_is_excluded_needs_something_that_is_mixed(transfer, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_task", None)
    ran = transfer("finetune", "--target", "boolq", "--exclude", "mr", "--out", tmp_path / "out")
    assert ran.code == 1
    assert "--keep best mixes nothing" in ran.err
    assert "try:   --keep auto, mixing, mixing-rest" in ran.err


@pytest.mark.parametrize("command", ["init", "finetune", "predict"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(command, transfer, reviews_csv, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_backbone", None)
    given = {
        "predict": ("--file", reviews_csv, "--choices", "bad,good"),
        "init": ("--target", reviews_csv, "--label-column", "verdict"),
        "finetune": ("--target", reviews_csv, "--label-column", "verdict"),
    }
    ran = transfer(command, *given[command], "--out", reviews_csv / "out")
    assert ran.code == 1
    assert f"cannot write {reviews_csv / 'out'}" in ran.err
    assert ran.err.splitlines()[-1] == "try:   another --out"


def test_finetune_looks_at_the_zoo_that_it_adds_to(transfer, reviews_csv, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_backbone", None)
    common = ("finetune", "--target", reviews_csv, "--label-column", "verdict", "--out", tmp_path / "out")
    ran = transfer(*common, "--add", "--zoo", reviews_csv / "zoo")
    assert ran.err.splitlines()[-1] == "try:   another --zoo"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder_is_told_by_the_path_that_was_given(tmp_path):
    (tmp_path / "shut").mkdir(mode=0o555)
    with pytest.raises(PathError, match="may not be written") as caught:
        check_writable(tmp_path / "shut" / "deep" / "out")
    assert "deep" in caught.value.asked


def test_a_place_that_can_be_made_passes(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c")
    assert not (tmp_path / "a").exists()


def test_answers_are_no_folder(transfer, reviews_csv, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_backbone", None)
    ran = transfer("predict", "--file", reviews_csv, "--choices", "bad,good", "--out", tmp_path)
    assert ran.code == 1
    assert "it is a folder" in ran.err


@pytest.mark.parametrize("command", ["init", "finetune"])
def test_a_home_folder_that_the_shell_left_is_looked_up(command, transfer, reviews_csv, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "done").mkdir()
    for mark in ("recipe.json", "card.json"):
        (tmp_path / "home" / "done" / mark).write_text("{}")
    ran = transfer(command, "--target", reviews_csv, "--label-column", "verdict", "--out=~/done")
    assert ran.code == 1
    assert f"{tmp_path / 'home' / 'done'} already holds a finished result" in ran.err


def test_a_blank_among_the_choices_is_refused(transfer, reviews_csv):
    ran = transfer("tasks", "show", reviews_csv, "--label-column", "verdict", "--choices", "bad,,good")
    assert ran.code == 1
    assert "one is blank" in ran.err


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with training_in(tmp_path / "x", afresh=False):
        (tmp_path / "x" / "checkpoint-5").mkdir()
        (tmp_path / "x" / "run.json").write_text("{}")
        with pytest.raises(ConfigError, match="another process is training"), training_in(tmp_path / "x", afresh=True):
            raise AssertionError("both got in")
        assert (tmp_path / "x" / "checkpoint-5").is_dir()
    with training_in(tmp_path / "x", afresh=True):
        assert [path.name for path in (tmp_path / "x").iterdir()] == [".lock"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--how", "uniform", "--temperature", 0.1), "temperature=0.1 has no part for --weighting uniform"),
        (("--how", "best", "--temperature", 5), "temperature=5.0 has no part for --weighting best"),
        (("--how", "best", "--top-k", 5), "top_k=5 has no part for --weighting best"),
    ],
)
def test_what_would_change_nothing_is_refused(words, said, transfer, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_task", None)
    ran = transfer("init", "--target", "boolq", "--out", tmp_path / "out", *words)
    assert ran.code == 1
    assert said in ran.err


@pytest.fixture
def interruptible():
    """Python's own handler of interrupts; workers of a parallel run ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_takes_for_a_missing_module_is_one(monkeypatch, capsys, interruptible):
    from transfer.cli import app

    def importing(**_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ModuleNotFoundError("Could not import module 'TrainerState'") from error

    monkeypatch.setattr(app, "app", importing)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def missing(**_):
        raise ModuleNotFoundError("no module named 'nothing'")

    monkeypatch.setattr(app, "app", missing)
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        app.main()


def test_output_that_is_not_utf8_loses_nothing(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("review,verdict\n" + "".join(f"ein Café {n},{('gut', 'öde')[n % 2]}\n" for n in range(40)))
    words = [sys.executable, "-c", "from transfer.cli.app import main; main()", "tasks", "show", str(path)]
    told = (*COLUMNS[:4], "--choices", "gut,öde")
    ran = subprocess.run(
        [*words, *told], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert r"Caf\xe9" in ran.stdout
