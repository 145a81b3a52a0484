"""Which modules can be merged tensor by tensor: equal method, settings that act on outputs, and backbone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from transfer.deltas.method import DeltaMethod
from transfer.errors import DeltaError
from transfer.similarity.switching import method_of
from zoo import Module
from zoo.shared_starts import Starts

# Settings that act in training only, or that the list of places makes idle.
IDLE = frozenset({"dropout", "reparameterisation", "where", "exclude", "places", "inputs"}) | {
    *("xi", "threshold", "scale_by_rate", "gate_learning_rate", "penalty"),  # how SoRA's gates are trained
}


def acting_settings(module: Module) -> dict[str, Any]:
    """What decides how a module's tensors act: defaults filled in, places and their inputs sorted.

    Raises:
        UnknownNameError: the card's method is not known. DeltaError: its settings are not that method's.
    """
    return _acting(method_of(module), module.card.settings)


def acting_on(method: DeltaMethod, model: nn.Module) -> dict[str, Any]:
    """The same of a method on a model, with what it reads off the model, as a card would have it."""
    settings = method.settings(model)
    return _acting(method.from_settings(settings), settings)


def _acting(method: DeltaMethod, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a method built from settings with places."""
    found = {name: value for name, value in method.settings().items() if name not in IDLE}
    places = list(settings.get("places", ()))
    if found.get("input_places") is not None:  # one for each place, in their order
        found["input_places"] = [read for _, read in sorted(zip(places, found["input_places"], strict=True))]
    return {**found, "places": sorted(places)}


def check_alike(modules: Sequence[Module]) -> None:
    """Refuse modules that differ in method, backbone, places, ranks or anything else that acts on outputs.

    Raises:
        DeltaError: names two that differ, and in what.
    """
    first = modules[0]
    ours = acting_settings(first)
    for other in modules[1:]:
        if other.card.method != first.card.method:
            raise differ(first, other, "method", first.card.method, other.card.method)
        if other.card.fingerprint != first.card.fingerprint:
            raise differ(first, other, "backbone", _backbone(first), _backbone(other))
        theirs = acting_settings(other)
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise differ(first, other, name, *_shown(name, ours, theirs))


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


def differ(first: Module, other: Module, name: str, ours: str, theirs: str) -> DeltaError:
    """Two modules that one merge cannot take, and in what they differ."""
    return DeltaError(
        f"{first.id!r} and {other.id!r} cannot be merged: they differ in {name}",
        found=f"{ours} and {theirs}",
        hint=f"leave one kind out: --exclude {other.id}",
    )


def check_one_start(modules: Sequence[Module], why: str, hint: str) -> None:
    """Refuse modules that were not all trained from one known start.

    Args:
        modules: Sorted by id.
        why: Why it has to be so, for the message: "'ties' compares changes from the shared start".
        hint: What to do instead.
    Raises:
        DeltaError: names one that has another start than the first, or an unknown one.
    """
    starts = Starts()
    first = starts.of(modules[0])
    for module in modules:
        start = starts.of(module)
        if start is None:
            said = f"the start of {module.id!r} is not known"
        elif start != first:
            said = f"{modules[0].id!r} and {module.id!r} were trained from different starts"
        else:
            continue
        raise DeltaError(
            f"{said}, {why}",
            found=f"starts {(first or 'unknown')[:8]} and {(start or 'unknown')[:8]}",
            hint=f"{hint}; or leave it out: --exclude {module.id}",
        )


def remark_on_starts(modules: Sequence[Module]) -> list[str]:
    """A line for the user where modules that are averaged tensor by tensor do not share a start; else none."""
    if len(modules) < 2:
        return []
    starts = Starts()
    by_start: dict[str | None, list[Module]] = {}
    for module in modules:
        by_start.setdefault(starts.of(module), []).append(module)
    unknown = by_start.pop(None, [])
    instead = "; --merge svd sums their products instead" if modules[0].card.method == "lora" else ""
    if len(by_start) > 1:
        fewest = min(by_start.values(), key=len)
        return [
            f"the merged modules were trained from {len(by_start)} different starts: averaged tensor by tensor they "
            f"may do badly ({fewest[0].id} has another start than most), which the guard's verdict would show{instead}"
        ]
    if unknown:
        return [
            f"the start of {len(unknown)} of the {len(modules)} merged modules is not known: averaged tensor by tensor "
            f"they may do badly ({unknown[0].id} for example), since units that mean the same may stand in another "
            f"order; the guard's verdict would show it{instead}"
        ]
    return []


def largest_group(modules: Iterable[Module], fingerprint: str | None = None) -> tuple[list[Module], list[Module]]:
    """The most modules that can be merged tensor by tensor, and the rest; both in the order given.

    Starts do not divide them: modules of different starts are averaged as those of unknown ones are.

    Args:
        modules: At least one.
        fingerprint: Of the backbone: groups trained on it go before larger ones of other backbones.
    """
    return _largest(modules, lambda m: json.dumps(acting_settings(m), sort_keys=True), fingerprint)


def same_backbone(modules: Iterable[Module], fingerprint: str | None = None) -> tuple[list[Module], list[Module]]:
    """The most modules of one method and backbone, whatever their settings, and the rest; arguments as above."""
    return _largest(modules, lambda module: "", fingerprint)


def _largest(
    modules: Iterable[Module], kind: Callable[[Module], str], fingerprint: str | None
) -> tuple[list[Module], list[Module]]:
    keys: dict[str, tuple[bool, str]] = {}
    everything = list(modules)
    for module in everything:
        settings = json.dumps([module.card.method, module.card.fingerprint, kind(module)])
        keys[module.id] = module.card.fingerprint == fingerprint, settings
    sizes = Counter(keys.values())
    chosen = min(sizes, key=lambda key: (not key[0], -sizes[key], key[1]))
    kept = [module for module in everything if keys[module.id] == chosen]
    return kept, [module for module in everything if keys[module.id] != chosen]
