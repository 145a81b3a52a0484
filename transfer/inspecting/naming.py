"""From exact places back to the few names in `where=` (and `inputs=`) that mean just them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from transfer.deltas.addressing import Names, check_places
from transfer.deltas.asked import EXPRESSION
from transfer.deltas.method import DeltaMethod
from transfer.deltas.parallel_adapter import ParallelAdapter
from transfer.errors import DeltaError


def naming_settings(method: DeltaMethod, model: nn.Module, places: Collection[str]) -> dict[str, Any]:
    """The settings that put a method on these places and no other: `where=`, and `inputs=` where its places are pairs.

    Args:
        method: Its own names say what is read for each place, if places are pairs.
        model: Any model or a `Backbone`.
        places: Names of modules in it.
    Raises:
        DeltaError: as `shortest_where`, and where a place has none to go with.
    """
    if not isinstance(method, ParallelAdapter):
        return {"where": shortest_where(model, places)}
    paired = method.paired(model)
    where: list[str] = []
    inputs: list[str] = []
    alone = [place for place in places if place not in paired]
    if alone:
        raise DeltaError(
            f"{method.method} has no pair for {alone[0]!r}", found=f"pairs for {', '.join(paired)}", hint="inputs="
        )
    for source in dict.fromkeys(source for _, source in paired.values()):
        group = [place for place in places if paired[place][1] == source]
        names = shortest_where(model, group) if group else ()
        where += names
        inputs += [source] * len(names)
    return {"where": tuple(where), "inputs": tuple(inputs)}


def shortest_where(model: nn.Module, places: Iterable[str]) -> tuple[str, ...]:
    """Names that mean these places and no other: common names first, then ends of names, then layers, then full names.

    Few and short, though not always the fewest: names are taken one by one, each the one that adds most.

    Args:
        model: Any model or a `Backbone`.
        places: Names of modules in it.
    Raises:
        DeltaError: one of the places is not in the model, or there is none.
    """
    names = Names(model)
    wanted = set(places)
    if not wanted:
        raise DeltaError("no places are given, so there is nothing to name")
    check_places(model, sorted(wanted))
    ordered = [place for place in names.modules if place in wanted]
    chosen: list[str] = []
    for kind in (_common, _ends, _layers, _exact):
        left = wanted - _meant(names, chosen)
        if left:
            chosen += _cover(names, left, wanted, dict.fromkeys(kind(names, [p for p in ordered if p in left])))
    return tuple(chosen)


def _cover(names: Names, left: set[str], wanted: set[str], candidates: Iterable[str]) -> Iterator[str]:
    """Candidates that mean wanted places alone, each time the one that adds most; equal ones in their order."""
    known = [(name, meant) for name in candidates if (meant := _meant(names, [name])) and meant <= wanted]
    while left:
        name, meant = max(known, key=lambda pair: len(pair[1] & left), default=("", set()))
        if not meant & left:
            return
        left = left - meant
        yield name


def _meant(names: Names, given: Iterable[str]) -> set[str]:
    """The places that are meant as a whole; a name that means a part of a fused layer does not say the layer."""
    found: set[str] = set()
    for name in given:
        try:
            found |= {place for place, parts in names.meant(name).items() if not parts}
        except DeltaError:  # an end with a number in it may mean nothing once it is read as a name
            continue
    return found


def _common(names: Names, places: Sequence[str]) -> Iterator[str]:
    here = set(places)
    for common in names.common:
        if common.place in here:
            yield common.part
    for common in names.common:
        if common.place in here:
            yield common.across


def _ends(names: Names, places: Sequence[str]) -> Iterator[str]:
    """`dense`, `output.dense`, `layer.*.output.dense`: numbers stand for all layers."""
    for place in places:
        parts = ["*" if part.isdecimal() else part for part in place.split(".")]
        for start in range(len(parts) - 1, -1, -1):
            if parts[start] != "*":
                yield ".".join(parts[start:])


def _layers(names: Names, places: Sequence[str]) -> Iterator[str]:
    """The names of `_common` and `_ends`, held to some layers: `attn.q[0:3]`."""
    common: dict[str, list[str]] = {}
    for known in names.common:
        common.setdefault(known.place, []).append(known.across)
    groups: dict[tuple[str, str], list[int]] = {}
    for place in places:
        layer = names.layer_of(place)
        if layer is not None:
            for name in common.get(place) or _ends(names, [place]):
                groups.setdefault((layer[0], name), []).append(layer[1])
    for (stack, name), numbers in groups.items():
        for layers in _slices(sorted(set(numbers))):
            yield f"{name.removeprefix(f'{stack}.')}[{layers}]"
            yield f"{name}[{layers}]"


def _slices(numbers: list[int]) -> Iterator[str]:
    """`0:3` of 0, 1, 2; `0:5:2` of 0, 2, 4; and what is left one by one.

    >>> list(_slices([0, 1, 2, 5])), list(_slices([0, 2, 4]))
    (['0:3', '5'], ['0:5:2'])
    """
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    if len(numbers) > 2 and len(steps) == 1:
        step = steps.pop()
        yield f"{numbers[0]}:{numbers[-1] + 1}" + (f":{step}" if step > 1 else "")
        return
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == last + 1:
            last = number
            continue
        yield str(first) if first == last else f"{first}:{last + 1}"
        first = last = number


def _exact(names: Names, places: Sequence[str]) -> Iterator[str]:
    """The full name, else one that cannot be the end of another or a common name."""
    for place in places:
        yield place
        yield rf"{EXPRESSION}\A{re.escape(place)}"
