"""Environments of their own for libraries that cannot live beside ours, and scripts that run in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs

from transfer.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = Path(__file__).parent / "elsewhere"
TORCH = "torch>=2.6,<2.14"


def our_requirements() -> list[str]:
    """What the project itself needs, for scripts that use it beside a peer."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["embedded"]]


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages; made the first time.

    Raises:
        ConfigError: the packages cannot be installed; with the last line that pip said.
    """
    folder = Path(platformdirs.user_cache_dir("transfer")) / "peers" / name
    python, note = folder / "bin" / "python", folder / "installed.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == list(packages):
        return python
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise ConfigError(f"{name} cannot be installed", found=last[0] if last else f"pip ended with {done.returncode}")
    note.write_text(json.dumps(list(packages)), encoding="utf-8")
    return python


def run_elsewhere(python: Path, script: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Run a script of `elsewhere/` on a JSON file of what is asked; gives the JSON that it leaves.

    Raises:
        ConfigError: the script failed; with the last line that it said.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        question, answer = Path(folder) / "asked.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(asked), encoding="utf-8")
        done = subprocess.run(
            [str(python), str(ELSEWHERE / script), str(question), str(answer)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if done.returncode != 0 or not answer.is_file():
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise ConfigError(f"{script} failed", found=last[0] if last else f"it ended with {done.returncode}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def same_python() -> Path:
    """The Python this runs in, for a peer that lives beside ours."""
    return Path(sys.executable)
