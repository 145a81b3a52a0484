"""Which delta is looked at: a method with its settings, and which places could take it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from transfer.deltas import METHODS
from transfer.deltas.addressing import find_places
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import named_modules
from transfer.deltas.parallel_adapter import ParallelAdapter
from transfer.deltas.tree import Laid, laid
from transfer.errors import ConfigError, DeltaError

_PLACES = ("where", "exclude", "at", "input_places", "parts")


def choose(
    name: str, where: Sequence[str] = (), exclude: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> DeltaMethod:
    """A method by its name.

    Args:
        name: One of `METHODS`.
        where: Its places; none are the method's own choice.
        exclude: What is left out of them.
        settings: Other settings as text, read as what the setting is by default: {"rank": "16"}.
    Raises:
        UnknownNameError: no such method.
        ConfigError: no such setting, or its value cannot be read or is outside its range.
    """
    kind = METHODS.get(name)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in _PLACES}
    chosen: dict[str, Any] = {}
    for setting, text in (settings or {}).items():
        if setting not in fields:
            raise ConfigError(f"{name} has no setting named {setting!r}", found=", ".join(fields))
        chosen[setting] = _read(setting, text, fields[setting])
    if where:
        chosen["where"] = tuple(where)
    if exclude:
        chosen["exclude"] = tuple(exclude)
    method: DeltaMethod = kind(**chosen)
    return method


def sizes_of(name: str) -> dict[str, int]:
    """The settings of a method that are whole numbers, such as a rank or a length, with their defaults."""
    return {
        f.name: f.default
        for f in dataclasses.fields(METHODS.get(name))
        if f.type in ("int", int) and isinstance(f.default, int)
    }


def told_settings(method: DeltaMethod) -> tuple[dict[str, str], list[str]]:
    """Settings beside the places that are not what they are by default: as text that `choose` reads, and those that no
    text can say."""
    told: dict[str, str] = {}
    unsaid: list[str] = []
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        plain = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in (*_PLACES, "inputs", *method.derived) or value == plain:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        text = text.lower() if isinstance(value, bool) else text
        if _says(field, text, value):
            told[field.name] = text
        else:
            unsaid.append(field.name)
    return told, unsaid


def with_pairs(method: DeltaMethod, first: DeltaMethod, model: nn.Module) -> DeltaMethod:
    """A method whose places are pairs, with those of `first` before its own; any other method as it is.

    Own names that the model lacks are left out.
    """
    if not isinstance(method, ParallelAdapter) or not isinstance(first, ParallelAdapter):
        return method
    own = list(zip(method.where, method.inputs, strict=True))
    pairs = [*zip(first.where, first.inputs, strict=False), *(pair for pair in own if _are_there(model, pair))]
    where, inputs = zip(*dict.fromkeys(pairs or own), strict=True)
    return dataclasses.replace(method, where=where, inputs=inputs)


def _are_there(model: nn.Module, names: Sequence[str]) -> bool:
    try:
        return all(find_places(model, [name]) for name in names)
    except DeltaError:
        return False


def fitting(method: DeltaMethod, model: nn.Module) -> tuple[dict[str, Laid], dict[str, str]]:
    """(place -> what the method would put there, place -> why it cannot go there), over all modules in model order."""
    fits: dict[str, Laid] = {}
    refused: dict[str, str] = {}
    paired = _paired(method, model)
    for place, module in named_modules(model).items():
        if place and paired is not None and place not in paired:
            refused[place] = "it goes on a pair of places, one of which is read: where= and inputs= name both"
        elif place:
            try:
                fits[place] = laid(method, place, module, model)
            except DeltaError as error:
                refused[place] = error.found or error.asked
    return fits, refused


def _paired(method: DeltaMethod, model: nn.Module) -> set[str] | None:
    """The places that have one to go with; None for a method whose places stand alone."""
    if not method.pairs:
        return None
    try:
        return set(method.places(model))
    except DeltaError:
        return set()


def _read(setting: str, text: str, field: dataclasses.Field[Any]) -> object:
    """The text as a value of the field's type."""
    kind = str(getattr(field.type, "__name__", field.type)).removesuffix(" | None")
    if kind not in _READERS:
        raise ConfigError(f"{setting} cannot be set from text", hint="set it in Python")
    read, said = _READERS[kind]
    try:
        return read(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{setting} takes {said}, got {text!r}", hint=f"{setting}={field.default}") from error


def _says(field: dataclasses.Field[Any], text: str, value: object) -> bool:
    try:
        return _read(field.name, text, field) == value
    except ConfigError:
        return False


def _names(text: str) -> tuple[str, ...]:
    """Names with commas between them; those of layers in brackets are a part of the name."""
    return tuple(part.strip() for part in re.split(r",(?![^[]*\])", text))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_READERS: dict[str, tuple[Callable[[str], object], str]] = {
    "int": (int, "a whole number"),
    "float": (_finite, "a number"),
    "bool": ({"true": True, "false": False}.__getitem__, "true or false"),
    "str": (str, "text"),
    "tuple[str, ...]": (_names, "names"),
}
