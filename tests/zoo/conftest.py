"""For the tests of the store."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """Inodes of the files and folders that were flushed to the disk; not waiting for the disk keeps the tests quick."""
    found = []
    monkeypatch.setattr(os, "fsync", lambda handle: found.append(os.fstat(handle).st_ino))
    return found
