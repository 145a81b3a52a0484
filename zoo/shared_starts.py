"""Which modules were trained from the same tensors, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.module import Module
from zoo.record import START


class Starts:
    """Tells the starts of modules apart by their tensors; each stored start is read once.

    Two modules share a start if their methods agree and the tensors that they were trained from, names (and so
    places) included.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}
        self._held: list[Mapping[str, Any]] = []  # addresses of tensors tell them apart only while these live

    def of(self, module: Module) -> str | None:
        """The hash of what the module was trained from, the same in whatever zoo it lies; None if it is not known."""
        from zoo.tensors import digest  # which needs torch

        key: tuple[Any, ...] | None = _stored_start(module)
        if key is not None and key in self._known:
            return self._known[key]
        start = module.start()
        if start is None:
            return None
        if key is None and isinstance(start, dict):  # in memory: many modules may share the very same tensors
            key = tuple((name, t.data_ptr(), tuple(t.shape), t.stride()) for name, t in start.items())
            self._held.append(start)
        if key is None:
            return digest(dict(start))
        if key not in self._known:
            self._known[key] = digest(dict(start))
        return self._known[key]

    def shared(self, modules: Iterable[Module]) -> bool:
        """True if all of them were trained from one known start, by one method."""
        found = {(module.card.method, self.of(module)) for module in modules}
        return len(found) == 1 and next(iter(found))[1] is not None


def _stored_start(module: Module) -> tuple[Path, str] | None:
    """(zoo, name) of a start that lies in a zoo: there a name stands for one start. A folder by itself has its own."""
    folder, name = module.folder, module.card.start
    if folder is None or name is None or folder.parent.name != "modules" or START in module.record.files:
        return None
    return folder.parent.parent, name
