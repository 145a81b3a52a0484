"""Several zoos read as one: the user's own and the one shipped with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.catalog import Entry
from zoo.errors import UnknownModuleError
from zoo.reading import ReadableZoo

if TYPE_CHECKING:
    import torch

    from zoo.module import Module


class ZooView(ReadableZoo):
    """The union of zoos, read-only. Where an id is in several, the first zoo has it.

    Args:
        zoos: In the order in which they are asked; at least one.
    """

    def __init__(self, zoos: Sequence[ReadableZoo]) -> None:
        if not zoos:
            raise ValueError("a view needs at least one zoo")
        self.zoos = tuple(zoos)

    def entries(
        self,
        task: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        category: str | None = None,
        fingerprint: str | None = None,
    ) -> list[Entry]:
        found: dict[str, Entry] = {}
        for zoo in self.zoos:
            for entry in zoo.entries(task, method, backbone, category, fingerprint):
                found.setdefault(entry.id, entry)
        return [found[module_id] for module_id in sorted(found)]

    def ids(self) -> list[str]:
        return sorted({module_id for zoo in self.zoos for module_id in zoo.ids()})

    def find(
        self,
        task: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        category: str | None = None,
        fingerprint: str | None = None,
    ) -> list[Module]:
        found: dict[str, Module] = {}
        for zoo in self.zoos:
            for module in zoo.find(task, method, backbone, category, fingerprint):
                found.setdefault(module.id, module)
        return [found[module_id] for module_id in sorted(found)]

    def get(self, module_id: str) -> Module:
        for zoo in self.zoos:
            try:
                return zoo.get(module_id)
            except UnknownModuleError:
                continue
        raise self._unknown(module_id, " or ".join(str(getattr(zoo, "path", zoo)) for zoo in self.zoos))

    def find_start(self, method: str, settings: Mapping[str, Any], fingerprint: str) -> str | None:
        return next(
            (name for zoo in self.zoos if (name := zoo.find_start(method, settings, fingerprint)) is not None), None
        )

    def get_start(self, name: str, dtype: torch.dtype | None = None) -> Mapping[str, torch.Tensor]:
        for zoo in self.zoos:
            if zoo.has_start(name):
                return zoo.get_start(name, dtype)
        raise UnknownModuleError(f"no start named {name!r} in any of {len(self.zoos)} zoos")

    def has_start(self, name: str) -> bool:
        return any(zoo.has_start(name) for zoo in self.zoos)

    def __repr__(self) -> str:
        return f"ZooView({list(self.zoos)!r})"
