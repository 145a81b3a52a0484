"""Reaching the Hub: silence, dead ends and offline mode are noticed in time and told."""

from __future__ import annotations

import socket
import time

import pytest

from transfer.errors import DataError
from transfer.tasks import load_task, reach


@pytest.fixture
def silent(monkeypatch):
    """An endpoint that takes connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
    yield
    listener.close()


def test_a_silent_hub_is_noticed_in_time(silent):
    start = time.monotonic()
    assert reach.why_unreachable(wait=0.3) == "no answer within 0.3 s"
    assert time.monotonic() - start < 2
    task = load_task("boolq")
    assert task.origin == "sample"
    assert "no answer within 0.3 s" in task.notes[0]


def test_the_default_wait_is_under_five_seconds():
    assert reach._WAIT_SECONDS < 5


def test_a_name_server_that_hangs_is_noticed_in_time(monkeypatch):
    def hang(*_, **__):
        time.sleep(5)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert "no answer" in reach.why_unreachable("http://nowhere.invalid", wait=0.3)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nowhere.invalid", "not a url"])
def test_a_hub_that_is_not_there_says_why(url, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    assert reach.why_unreachable(url)


def test_offline_mode_asks_nobody(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(reach, "_ask", None)
    with pytest.raises(DataError, match="task 'rte' is known but out of reach") as caught:
        load_task("rte")
    assert "offline mode is on" in caught.value.found
    assert "TRANSFER_TASKS" in caught.value.hint
