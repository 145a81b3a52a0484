"""Running commands as a user does, in this process: what they print, and the exit code."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny


@dataclass
class Ran:
    """One command's outcome."""

    code: int
    out: str
    err: str


@pytest.fixture
def transfer(monkeypatch, capsys):
    """`transfer("zoo", "ls")` runs the command and gives its outcome."""
    from transfer.cli.app import main

    def run(*words: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["transfer", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def backbone_folder(tmp_path):
    """Makes a folder with a tiny backbone: `backbone_folder("t5")`."""

    def make(arch: str) -> Path:
        folder = tmp_path / f"tiny-{arch}"
        tiny.tiny_model(arch).save_pretrained(folder)
        tiny.tokenizer_for(arch).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def reviews_csv(tmp_path) -> Path:
    """A user's own file: a column of text and one of words."""
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "verdict"])
        for row in tiny.sentiment_rows(120):
            writer.writerow([row["input"].removeprefix("text: "), ("bad", "good")[row["label"]]])
    return path
