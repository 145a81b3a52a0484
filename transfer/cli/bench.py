"""`transfer bench`: the benchmarks of a checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  transfer bench estimators --smoke
  transfer bench strategies --report"""

SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}


def bench(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="strategies, ensembling, estimators, peers, sparsity, stopping or speed. What follows goes to it."
        ),
    ],
) -> None:
    """Run a benchmark from a checkout of the source (python -m benchmarks.NAME)."""
    from transfer.errors import ConfigError, UnknownNameError

    root = next((path for path in (Path.cwd(), Path(__file__).resolve().parents[2]) if _suite(path)), None)
    if root is None:
        raise ConfigError(
            "the benchmarks are not part of the installed package",
            found=f"no benchmarks/rows.py in {Path.cwd()}",
            hint="git clone the source of transfer-zoo, and run it there",
        )
    known = sorted(path.parent.name for path in (root / "benchmarks").glob("*/__main__.py"))
    if name not in known:
        raise UnknownNameError(f"no benchmark named {name!r}; known: {', '.join(known)}")
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *context.args], cwd=root, check=False)
    raise typer.Exit(done.returncode)


def _suite(path: Path) -> bool:
    return (path / "benchmarks" / "rows.py").is_file() and (path / "transfer").is_dir()
