"""Importing a package is quick, and imports between the parts point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLOW = {"torch", "transformers", "datasets", "faiss", "sklearn", "peft", "scipy", "pandas", "matplotlib", "accelerate"}
PACKAGES = ["zoo", "zoo.errors", "transfer", "transfer.errors", "transfer.registry"] + [
    f"transfer.{path.parent.name}" for path in sorted((ROOT / "transfer").glob("*/__init__.py"))
]

# What a part may import: its own rank and below.
RANKS = {"zoo": 0, "errors": 1, "registry": 1, "progress": 1, "paths": 1}
RANKS |= {"tasks": 2, "deltas": 2, "backbones": 2, "training": 3, "similarity": 4, "ensembling": 5, "cli": 7}


def rank(module: str) -> int:
    """Of a dotted name; what is not listed stands between ensembling and the command line."""
    parts = module.split(".")
    return RANKS["zoo"] if parts[0] == "zoo" else RANKS.get(parts[1] if len(parts) > 1 else "", 6)


def imported(path: Path) -> set[str]:
    """Dotted names of our own modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "transfer" else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ("transfer", "zoo")}


FILES = sorted(path for package in ("transfer", "zoo") for path in (ROOT / package).rglob("*.py"))


def test_importing_packages_imports_nothing_slow():
    code = (
        "import importlib, sys\n"
        f"for name in {PACKAGES!r}:\n"
        "    importlib.import_module(name)\n"
        f"    slow = sorted({SLOW!r} & set(sys.modules))\n"
        "    assert not slow, (name, slow)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    own = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    wrong = sorted(name for name in imported(path) if rank(name) > rank(own))
    assert not wrong, f"{own} imports {', '.join(wrong)}"
