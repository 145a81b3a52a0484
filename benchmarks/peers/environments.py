"""Environments of the libraries that are not installed here: made once, in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfer.errors import TransferError
from transfer.paths import cache_folder

ROOT = Path(__file__).resolve().parents[2]
MADE = "made"  # a file that is written when everything is installed
_FAILED: dict[Path, str] = {}  # what could not be made in this process is not tried for every start


class PeerError(TransferError):
    """Another library cannot be installed, or cannot do what is asked of it."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, made when it is first needed.

    Args:
        name: Of its folder.
        requirements: What pip installs.
        shared: It also sees what is installed here, and only what is missing is installed. Without, it has nothing in
            common with this one: for packages that need other versions.
    """

    name: str
    requirements: tuple[str, ...]
    shared: bool = False

    @property
    def folder(self) -> Path:
        """Where it is: other requirements, another Python or, where packages are shared, others here make another."""
        parts = [*self.requirements, sys.version, sysconfig.get_paths()["purelib"] if self.shared else ""]
        mark = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
        return cache_folder() / "benchmarks" / "peers" / f"{self.name}-{mark}"

    @property
    def packages(self) -> Path:
        """The folder of its own packages, made if it is not there.

        Raises:
            PeerError: it cannot be made.
        """
        self._make()
        return self._packages()

    def run(self, script: str, *words: str) -> dict[str, Any]:
        """Run `benchmarks.peers.SCRIPT` in it, in a process of its own; gives back the JSON of its last line.

        Raises:
            PeerError: it cannot be made, or the script failed.
        """
        self._make()
        command = [str(self._python()), "-P", "-m", f"benchmarks.peers.{script}", *words]
        done = _run(command, {**os.environ, "PYTHONPATH": str(ROOT)})
        if done.returncode != 0:
            raise PeerError(f"{self.name} failed: {_reason(done)}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def _packages(self) -> Path:
        found = sorted(self.folder.glob("lib/python*/site-packages")) or [self.folder / "Lib" / "site-packages"]
        return found[0]

    def _make(self) -> None:
        if (self.folder / MADE).is_file():
            return
        if self.folder in _FAILED:
            raise PeerError(_FAILED[self.folder])
        shutil.rmtree(self.folder, ignore_errors=True)  # of one that was killed
        self.folder.mkdir(parents=True)
        try:
            self._step([sys.executable, "-m", "venv", str(self.folder)])
            if self.shared:
                here = sysconfig.get_paths()["purelib"]
                line = f"import site; site.addsitedir({here!r})\n"
                (self._packages() / "shared.pth").write_text(line, encoding="utf-8")
            pip = [str(self._python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            self._step([*pip, *self.requirements])
        except PeerError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            _FAILED[self.folder] = str(error)
            raise
        (self.folder / MADE).write_text("\n".join(self.requirements) + "\n", encoding="utf-8")

    def _step(self, command: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = _run(command, environment)
        if done.returncode != 0:
            asked = " ".join(self.requirements)
            raise PeerError(f"no environment with {asked}: {_reason(done)}")


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what went wrong; pip's own begin with ERROR."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"exit status {done.returncode}"])[-1]
