"""A server with a page about a small model, on a thread of its own."""

from __future__ import annotations

import threading

import pytest
import tiny

from transfer.inspecting import Pages, Server


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_model("t5").requires_grad_(False)


@pytest.fixture(scope="module")
def server(model):
    with Server(Pages(model, "tiny t5")) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield server
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
