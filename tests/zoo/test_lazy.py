"""Public names that are imported on first use."""

from __future__ import annotations

import importlib
import sys

import pytest

from zoo.lazy import lazy_names

PACKAGES = [
    "zoo",
    "transfer",
    *(f"transfer.{name}" for name in ("backbones", "building", "deltas", "training", "tasks")),
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one public name in one file."""
    folder = tmp_path / "lazy_toy"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from zoo.lazy import lazy_names\n__getattr__, __dir__ = lazy_names(__name__, {'Pear': 'fruit'})\n"
    )
    (folder / "fruit.py").write_text("class Pear: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lazy_toy")
    for name in [name for name in sys.modules if name.startswith("lazy_toy")]:
        del sys.modules[name]


def test_a_name_is_imported_when_it_is_asked_for(package):
    assert "lazy_toy.fruit" not in sys.modules
    assert {"Pear", "__name__"} <= set(dir(package))
    assert "lazy_toy.fruit" not in sys.modules
    assert package.Pear is package.fruit.Pear


def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="module 'lazy_toy' has no attribute 'Apple'"):
        package.Apple  # noqa: B018
    assert not hasattr(package, "Apple")


def test_a_file_named_as_what_it_holds_is_refused():
    with pytest.raises(ValueError, match="file of 'tune' must have another name"):
        lazy_names("toy", {"tune": "tune"})


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_of_ours_can_be_imported(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        assert getattr(package, public) is not None
