"""What a zoo and a view over several zoos have in common: reading."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zoo.catalog import Entry
from zoo.errors import PathError, UnknownModuleError

if TYPE_CHECKING:
    import torch

    from zoo.module import Module


class ReadableZoo(ABC):
    """Modules that can be found, listed and read."""

    @abstractmethod
    def entries(
        self,
        task: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        category: str | None = None,
        fingerprint: str | None = None,
    ) -> list[Entry]:
        """Lines of the catalogue, sorted by id: quick also for thousands of modules. None wants nothing."""

    @abstractmethod
    def get(self, module_id: str) -> Module:
        """The module of this id.

        Raises:
            UnknownModuleError: there is none; the message proposes the closest.
            PathError: it is no id.
            CardError: its card is not valid.
        """

    @abstractmethod
    def find(
        self,
        task: str | None = None,
        method: str | None = None,
        backbone: str | None = None,
        category: str | None = None,
        fingerprint: str | None = None,
    ) -> list[Module]:
        """All modules, sorted by id, that have what is asked for. None wants nothing; no match gives an empty list."""

    @abstractmethod
    def find_start(self, method: str, settings: Mapping[str, Any], fingerprint: str) -> str | None:
        """Name of the shared start for these shape-deciding settings, or None if there is none."""

    @abstractmethod
    def get_start(self, name: str, dtype: torch.dtype | None = None) -> Mapping[str, torch.Tensor]:
        """The tensors of a shared start, in fp32 unless another dtype is asked for; UnknownModuleError if missing."""

    @abstractmethod
    def has_start(self, name: str) -> bool:
        """True if there is a shared start of that name."""

    def ids(self) -> list[str]:
        """Every id, sorted."""
        return [entry.id for entry in self.entries()]

    def counts(self) -> list[tuple[str, str, str, int]]:
        """(method, backbone, fingerprint, number of modules): what to tell when nothing fits."""
        counts: dict[tuple[str, str, str], int] = {}
        for entry in self.entries():
            key = (entry.method, entry.backbone, entry.fingerprint)
            counts[key] = counts.get(key, 0) + 1
        return [(*key, n) for key, n in sorted(counts.items())]

    def __iter__(self) -> Iterator[Module]:
        return iter(self.find())

    def __len__(self) -> int:
        return len(self.ids())

    def __bool__(self) -> bool:
        return True  # a zoo that holds nothing is still a zoo: `zoo or other` must not pass it by

    def __contains__(self, module: object) -> bool:
        """True if the module, or the module of this id, is there."""
        module_id = getattr(module, "id", module)
        if not isinstance(module_id, str):
            return False
        try:
            self.get(module_id)
        except (UnknownModuleError, PathError):
            return False
        return True

    def _unknown(self, module_id: str, where: str) -> UnknownModuleError:
        ids = self.ids()
        close = difflib.get_close_matches(module_id, ids, n=1)
        same = [other for other in ids if other.startswith(f"{module_id}-")]
        better = same[0] if same else close[0] if close else None
        return UnknownModuleError(
            f"no module {module_id!r} in {where}",
            found=f"{len(ids)} modules",
            hint=f"did you mean {better!r}?" if better else "transfer zoo ls",
        )
