"""Public names of a package that are imported on first use, so that importing the package stays quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, table: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public names live in its files.

    Args:
        package: `__name__` of the package.
        table: public name -> file inside the package ("task" for `package.task`). A file must not have the name of
            what it holds: importing `package.tune` would put the file in the place of the function.

    >>> __getattr__, __dir__ = lazy_names("zoo", {"Card": "card"})
    >>> __getattr__("Card").__name__
    'Card'
    """

    clash = [name for name, file in table.items() if name == file]
    if clash:
        raise ValueError(f"{package}: the file of {clash[0]!r} must have another name")

    def get(name: str) -> Any:
        if name not in table:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{table[name]}"), name)

    def names() -> list[str]:
        return sorted({*table, *vars(sys.modules[package])})  # what the package defines itself is there as well

    return get, names
