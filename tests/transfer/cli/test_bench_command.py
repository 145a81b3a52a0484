"""`transfer bench` finds the suite of a checkout, and says so where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from transfer.cli import bench
from transfer.cli.app import app
from transfer.errors import ConfigError, UnknownNameError

ROOT = Path(__file__).resolve().parents[3]


def test_it_runs_the_benchmark_with_all_that_follows(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(ROOT)
    rows = tmp_path / "rows.jsonl"
    row = {"stage": "run", "target": "trec", "method": "lora", "examples": 64, "seed": 0, "start": "category"}
    row |= {"keep": "best", "tuning": "150/10/6/16"}
    rows.write_text(json.dumps({**row, "error": "ConfigError: no module"}) + "\n")
    result = CliRunner().invoke(app, ["bench", "strategies", "--report", "--out", str(rows)])
    assert result.exit_code == 0
    assert "trec lora category best 64 0 ConfigError: no module" in capfd.readouterr().out


def test_an_unknown_one_is_named_with_those_there_are(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UnknownNameError, match=r"no benchmark named 'stratgies'.*strategies"):
        CliRunner().invoke(app, ["bench", "stratgies"], catch_exceptions=False)


def test_elsewhere_it_says_where_the_suite_is(monkeypatch, tmp_path):
    installed = tmp_path / "site-packages" / "transfer" / "cli"
    installed.mkdir(parents=True)
    shutil.copy(bench.__file__, installed / "bench.py")
    monkeypatch.setattr(bench, "__file__", str(installed / "bench.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not part of the installed package"):
        CliRunner().invoke(app, ["bench", "strategies"], catch_exceptions=False)
