"""Writes docs/reference/cli.md from the help of every command: python docs/cli_reference.py"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from transfer.cli.app import app

PAGE = Path(__file__).parent / "reference" / "cli.md"
HEAD = """# Command line

What every command prints for `--help`. This page is written by `python docs/cli_reference.py`; a test holds it against
the code.

What holds for all of them:

- Exit code 0: done. 1: an error that was explained (what was asked, what is there, what to do). 2: a wrong call.
- `--json` prints one JSON document on standard output and nothing else. `--quiet` prints no more than the result.
- Errors go to standard error. So do progress bars, which are shown on a terminal only.
- `$TRANSFER_ZOO` names your zoo, `$TRANSFER_TASKS` a folder with a folder per task. `HF_HUB_OFFLINE=1` keeps the Hub
  out.
"""


def commands() -> Iterator[list[str]]:
    """The words of every command, groups before what is in them: [], ["init"], ..., ["zoo", "ls"]."""

    def walk(command: Any, words: list[str]) -> Iterator[list[str]]:
        yield words
        for name, part in getattr(command, "commands", {}).items():
            yield from walk(part, [*words, name])

    yield from walk(get_command(app), [])


def page() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "100"  # the width that typer takes when there is no terminal
    parts = [HEAD]
    for words in commands():
        name = " ".join(["transfer", *words])
        done = CliRunner().invoke(app, [*words, "--help"], prog_name="transfer", terminal_width=100)
        if done.exit_code != 0:
            raise SystemExit(f"{name} --help: {done.output}")
        parts.append(f"## {name}\n\n```text\n{done.output.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
