"""Looking at a model before anything is trained: what it is made of, where a delta goes, what it would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.lazy import lazy_names

if TYPE_CHECKING:
    from transfer.inspecting.choosing import choose, fitting
    from transfer.inspecting.facts import document
    from transfer.inspecting.naming import shortest_where
    from transfer.inspecting.pages import Pages
    from transfer.inspecting.server import Server

_FILES = {
    "Pages": "pages",
    "Server": "server",
    "choose": "choosing",
    "document": "facts",
    "fitting": "choosing",
    "shortest_where": "naming",
}

__all__ = ["Pages", "Server", "choose", "document", "fitting", "shortest_where"]

__getattr__, __dir__ = lazy_names(__name__, _FILES)
