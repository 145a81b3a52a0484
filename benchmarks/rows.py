"""Rows of a benchmark: one JSON line per run, written at once, so that a killed benchmark goes on where it was."""

from __future__ import annotations

import functools
import json
import platform
import resource
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any


class Rows:
    """The JSON lines of one file; `key` names the fields that say which run a row is."""

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path = path
        self.key = tuple(key)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill, or a run that is at it, may have left half a line
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines() if line.strip()]
        self._mended = False
        self._environment = environment()

    def _mend(self) -> None:
        """Cut off a last line that a kill left unfinished; only who writes may: a reader may have come in between."""
        if self.path.is_file() and not self._mended:
            text = self.path.read_bytes()
            if text and not text.endswith(b"\n"):
                with self.path.open("r+b") as file:
                    file.truncate(text.rfind(b"\n") + 1)
        self._mended = True

    def done(self, **run: Any) -> dict[str, Any] | None:
        """The last row of that run, or None."""
        for row in reversed(self.rows):
            if all(row.get(name) == run.get(name) for name in self.key):
                return row
        return None

    def join(self, other: Rows) -> None:
        """Count the runs of another file as done too; their rows are not written here, nor what failed there."""
        self.rows += [row for row in other.rows if "error" not in row and self.done(**row) is None]

    def add(self, **row: Any) -> dict[str, Any]:
        """Write a row, with where and with what it was run."""
        row |= self._environment | {"peak_memory_mib": peak_memory()}
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row


def peak_memory() -> int:
    """The most that this process, or one it ran, has ever had in memory, in MiB."""
    return max(resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@functools.cache
def environment() -> dict[str, Any]:
    """Commit, versions and processor: what a later check needs. Read once, before anything is run."""
    import torch

    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    return {
        "commit": git("rev-parse", "--short", "HEAD"),
        "code": git("rev-parse", "--short", "HEAD:transfer"),  # the same while the package is, whatever else changed
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", "*.py", "*.json", "zoo/starter")),
        "device": f"{'cuda' if torch.cuda.is_available() else 'cpu'}, {platform.machine()}",
        "versions": {name: version(name) for name in ("torch", "transformers", "transfer-zoo")},
    }
