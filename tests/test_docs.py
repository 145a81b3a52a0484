"""What the pages say can be done: Python blocks run as written, commands parse, names and links are there."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.main import get_command

from transfer.cli.app import app
from transfer.deltas import METHODS
from transfer.similarity import ESTIMATORS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SLOW = {"README.md", "python.md", "peft.md", "sparse-lora.md", "keeping-the-head-start.md"}  # they train


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page, in order."""
    return [body for name, body in _BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def commands(page: Path) -> list[list[str]]:
    """Words of every `transfer ...` in the bash blocks of a page."""
    found = []
    for body in blocks(page, "bash"):
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words[:1] == ["transfer"]:
                found.append(words[1:])
    return found


def runnable() -> list[Any]:
    pages = [page for page in PAGES if blocks(page, "python")]
    return [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in pages]


@pytest.mark.parametrize("page", runnable())
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, body in enumerate(blocks(page, "python"), 1):
        exec(compile(body, f"{page.name}, block {number}", "exec"), names)
    if page.name == "peft.md":
        for method in ("lora", "prefix"):
            _check_trained_on(tmp_path / f"sentiment-{method}", tmp_path / f"continued-{method}")


def _check_trained_on(before: Path, after: Path) -> None:
    """PEFT loaded the tensors and trained them: the names are the same, the values are near but others."""
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    moved = torch.cat([(new[name].float() - old[name].float()).flatten() for name in old])
    assert 0 < float(moved.abs().max()) < 0.1


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=f"{page.name}: {shlex.join(words)}") for page in PAGES for words in commands(page)],
)
def test_commands_parse(words):
    # Parsing alone: no command is run. An option, value or argument that is not there is a UsageError.
    command: Any = get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        assert set(rest[:1]) & set(command.commands), f"no command {shlex.join(words)}"
        command = command.commands[rest.pop(0)]
    command.make_context("transfer", rest)


def test_a_command_that_is_wrong_would_be_noticed():
    with pytest.raises(Exception, match=r"[Nn]o such option"):
        test_commands_parse(["init", "--target", "boolq", "--temp", "1"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_every_estimator_is_explained():
    text = (ROOT / "docs" / "reference" / "estimators.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### (\S+)$", text, re.MULTILINE)) == ESTIMATORS.names()


def test_every_method_is_in_the_table_with_its_number_of_parameters(embedded):
    text = (ROOT / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| `(\w+)` \|.*?\| ([\d,]+) \|", text, re.MULTILINE)
    counted = {}
    for name in METHODS.names():
        shapes = METHODS.get(name)().shapes(embedded.model).values()
        counted[name] = METHODS.get(name).__name__, f"{sum(math.prod(shape) for shape in shapes):,}"
    assert {name: (kind, n) for name, kind, n in rows} == counted


def test_the_command_line_page_is_what_help_says(tmp_path):
    # In a process of its own: the width of the help is read from the environment once.
    code = "import sys; sys.path.insert(0, 'docs'); import cli_reference; print(cli_reference.page(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert page == done.stdout, "write it anew: python docs/cli_reference.py"
