"""Which modules can be merged tensor by tensor: equal method, settings that act on outputs, and backbone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer.deltas import METHODS
from transfer.errors import DeltaError
from zoo import Module

# Settings that act in training only, or that the list of places makes idle.
IDLE = frozenset({"dropout", "reparameterisation", "where", "exclude", "places", "inputs"})


class Starts:
    """Tells the starts of modules apart by their tensors; each stored start is read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], str] = {}

    def of(self, module: Module) -> str | None:
        """The hash of what the module was trained from, the same in whatever zoo it lies; None if it is not known."""
        from zoo.tensors import digest

        key = _stored_start(module)
        if key is not None and key in self._known:
            return self._known[key]
        start = module.start()
        if start is None:
            return None
        found = digest(dict(start))
        if key is not None:
            self._known[key] = found
        return found


def _stored_start(module: Module) -> tuple[Path, str] | None:
    """(zoo, name) of a start that lies in a zoo: there a name stands for one start."""
    folder, name = module.folder, module.card.start
    if folder is None or name is None or folder.parent.name != "modules":
        return None
    return folder.parent.parent, name


def acting_settings(module: Module) -> dict[str, Any]:
    """What decides how the tensors act, defaults filled in, with the places sorted.

    Raises:
        UnknownNameError: the card's method is not known. DeltaError: its settings are not that method's.
    """
    method = METHODS.get(module.card.method).from_settings(module.card.settings)
    acting = {name: value for name, value in method.settings().items() if name not in IDLE}
    return {**acting, "places": sorted(module.card.settings.get("places", ()))}


def check_alike(modules: Sequence[Module]) -> None:
    """Refuse modules that differ in method, backbone, places, ranks or anything else that acts on outputs.

    Raises:
        DeltaError: names two that differ, and in what.
    """
    first = modules[0]
    ours = acting_settings(first)
    for other in modules[1:]:
        if other.card.method != first.card.method:
            raise _differ(first, other, "method", first.card.method, other.card.method)
        if other.card.fingerprint != first.card.fingerprint:
            raise _differ(first, other, "backbone", _backbone(first), _backbone(other))
        theirs = acting_settings(other)
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise _differ(first, other, name, *_shown(name, ours, theirs))


def _backbone(module: Module) -> str:
    return f"{module.card.backbone} ({module.card.fingerprint[:8]})"


def _shown(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, str]:
    if name != "places":
        return str(ours.get(name)), str(theirs.get(name))
    mine, others = set(ours[name]), set(theirs[name])
    one, two = sorted(mine - others), sorted(others - mine)
    return f"{len(mine)} places{_example(one)}", f"{len(others)} places{_example(two)}"


def _example(names: Sequence[str]) -> str:
    return f", {names[0]} for example" if names else ""


def _differ(first: Module, other: Module, name: str, ours: str, theirs: str) -> DeltaError:
    return DeltaError(
        f"{first.id!r} and {other.id!r} cannot be merged tensor by tensor: they differ in {name}",
        found=f"{ours} and {theirs}",
        hint=f"leave one kind out: --exclude {other.id}",
    )


def largest_group(modules: Iterable[Module], fingerprint: str | None = None) -> tuple[list[Module], list[Module]]:
    """The most modules that can be merged tensor by tensor, and the rest; both in the order given.

    Starts do not divide them: modules of different starts are averaged as those of unknown ones are.

    Args:
        modules: At least one.
        fingerprint: Of the backbone: groups trained on it go before larger ones of other backbones.
    """
    keys: dict[str, tuple[bool, str]] = {}
    everything = list(modules)
    for module in everything:
        settings = json.dumps([module.card.method, module.card.fingerprint, acting_settings(module)], sort_keys=True)
        keys[module.id] = module.card.fingerprint == fingerprint, settings
    sizes = Counter(keys.values())
    chosen = min(sizes, key=lambda key: (not key[0], -sizes[key], key[1]))
    kept = [module for module in everything if keys[module.id] == chosen]
    return kept, [module for module in everything if keys[module.id] != chosen]
