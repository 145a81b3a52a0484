"""The one registry pattern: names mapped to classes that are imported on first use."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from transfer.errors import UnknownNameError


class Registry:
    """Names mapped to what is imported on first use, so that `--help` stays quick.

    Args:
        kind: What the names are, for messages: "estimator", "method".
        targets: name -> "package.file:attribute".
        aliases: other names of the same things, name -> name; not listed by `names()`.
        beside: names that users may say as well and that callers look after, such as "auto"; for messages alone.
    """

    def __init__(
        self,
        kind: str,
        targets: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        beside: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self._targets = dict(targets)
        self._aliases = dict(aliases or {})
        self._beside = tuple(beside)

    def names(self) -> list[str]:
        """Every name, sorted, without the aliases."""
        return sorted(self._targets)

    def resolve(self, name: str) -> str:
        """The full name behind `name`, which may be an alias.

        Raises:
            UnknownNameError: no such name; the message proposes the closest.
        """
        full = self._aliases.get(name, name)
        if full not in self._targets:
            known = [*self._targets, *self._aliases, *self._beside]
            close = difflib.get_close_matches(name, known, n=1)
            raise UnknownNameError(
                f"no {self.kind} named {name!r}",
                found=", ".join([*self._beside, *self.names()]),
                hint=f"did you mean {close[0]!r}?" if close else "one of these names",
            )
        return full

    def get(self, name: str) -> Any:
        """The class (or function) behind `name`."""
        file, _, attribute = self._targets[self.resolve(name)].partition(":")
        return getattr(importlib.import_module(file), attribute)
