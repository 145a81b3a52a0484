"""Fixtures for all tests: tiny backbones, the embedded one, and a home that is empty."""

from __future__ import annotations

import os

# Set before anything imports huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import tiny


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, whole: with several workers one would else end long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's zoo, cache or tasks."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        os.environ[name] = str(home / name.lower())
    for name in ("TRANSFER_ZOO", "TRANSFER_TASKS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        os.environ.pop(name, None)


@pytest.fixture
def tiny_model():
    """Makes a tiny model: `tiny_model("bert")`."""
    return tiny.tiny_model


@pytest.fixture
def tiny_backbone():
    """Makes a tiny backbone: `tiny_backbone("t5")`."""
    return tiny.tiny_backbone


@pytest.fixture(scope="session")
def embedded():
    """The embedded MiniLM, loaded once; tests leave it without a delta."""
    from transfer.backbones import load_backbone

    backbone = load_backbone("embedded")
    yield backbone
    assert backbone.delta is None, "a test left a delta on the embedded backbone"
