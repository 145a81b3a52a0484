"""The package: its public names, and what using them imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", zoo.__all__)
def test_public_names_are_there(name):
    assert getattr(zoo, name).__name__ == name
    assert name in dir(zoo)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Zooo"):
        _ = zoo.Zooo


def _imported(code):
    """Names of the packages that running `code` leaves imported."""
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_importing_zoo_imports_nothing_slow():
    assert not {"torch", "numpy", "pydantic", "faiss", "safetensors"} & _imported("import zoo")


def test_listing_needs_no_torch_and_the_store_nothing_of_transfer(tmp_path):
    found = _imported(f"import zoo\nz = zoo.Zoo({str(tmp_path)!r})\nz.entries(), z.find(), zoo.Card, zoo.Zoo.starter()")
    assert not {"torch", "faiss", "transfer", "transformers", "peft"} & found


def test_no_file_of_zoo_imports_transfer():
    for path in (ROOT / "zoo").rglob("*.py"):
        assert "import transfer" not in path.read_text(), path
        assert "from transfer" not in path.read_text(), path
