"""A small zoo on a tiny backbone, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import small
import tiny

from zoo import Zoo


@pytest.fixture(scope="session")
def small_zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Zoo]]:
    """Makes (backbone, zoo) for an architecture and a method, once; tests only read them."""
    made: dict[tuple[str, str], tuple[Any, Zoo]] = {}

    def make(arch: str = "bert", name: str = "lora") -> tuple[Any, Zoo]:
        if (arch, name) not in made:
            backbone = tiny.tiny_backbone(arch)
            made[arch, name] = backbone, small.make_zoo(backbone, name, tmp_path_factory.mktemp("zoo"))
        return made[arch, name]

    return make
