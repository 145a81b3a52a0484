"""From the names in `where=` and `exclude=` to the places in a model.

A name is one of
- a common-structure name or the end of one: `attn.q`, `decoder.attn.q`, `encoder.block.0.attn.q`;
- the end of a module's name: `query`, `self.query`, `encoder.layer.0.attention.self.query`;
- `re:` and a regular expression, which has to match the end of a module's name from a dot on, or all of it.

`*` in the first two stands for one part of a name, and layers may follow in brackets, counted as Python counts:
`attn.q[0:3]`, `query[-1]`, `decoder.ff.w2[::2]`. The brackets stand on the name and not in a setting of their own, so
that one method can take some layers of one part and others of another, and `exclude=` reads the same way.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from transfer.deltas.blocks import stack_and_index
from transfer.deltas.common_structure import Common, by_part, common_names
from transfer.deltas.dotted import fronts
from transfer.deltas.modules import inner_model, named_modules
from transfer.errors import DeltaError

EXPRESSION = "re:"
_LAYERS = re.compile(r"(?P<name>.*?)\[(?P<layers>[^\[\]]*)\]")
_SLICE = re.compile(r"\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?)?")


def find_places(model: nn.Module, where: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Names of the modules that `where` means, in model order, each once.

    Args:
        model: Any model or a `Backbone`; names are relative to the inner model.
        where: Names as this file describes them. A plain name is looked for among the common ones first, then among
            the modules; a regular expression the other way round.
        exclude: Names of modules to leave out, with all that is inside them: `decoder`, `ff`, `block[0]`.
    Raises:
        DeltaError: `where` is empty, one of the names matches nothing (says the closest that exist), layers are not
            there or not readable, or nothing is left.
    """
    if not where:
        raise DeltaError("where= is empty, so there is no place to attach to", hint="where=('attn.q', 'attn.v')")
    names = Names(model)
    chosen = {place for name in where for place in names.meant(name)}
    left = chosen - {place for name in exclude for place in names.meant(name, inside=True)}
    if not left:
        raise DeltaError(
            f"exclude={tuple(exclude)!r} leaves no place of where={tuple(where)!r}",
            found=f"{len(chosen)} places before, such as {min(chosen)}",
        )
    return [name for name in names.modules if name in left]


def check_places(model: nn.Module, places: Sequence[str]) -> list[str]:
    """The exact places, once it is sure that the model has them all.

    Raises:
        DeltaError: a place is not in the model; names it and the closest that exist.
    """
    modules = named_modules(model)
    for place in places:
        if place not in modules:
            raise _unknown(place, model, list(modules), [])
    return list(places)


def matches_end(full: str, name: str) -> bool:
    """True if `full` ends with `name` at a dot or as a whole; `*` in `name` stands for one part.

    >>> matches_end("encoder.layer.0.output.dense", "output.dense"), matches_end("layer.input", "put")
    (True, False)
    >>> matches_end("encoder.layer.0.output.dense", "encoder.layer.*.output.dense")
    True
    """
    if "*" not in name:
        return full == name or full.endswith(f".{name}")
    return re.fullmatch(_pattern(name), full) is not None


def _pattern(name: str) -> str:
    return r"(?:.*\.)?" + re.escape(name).replace(r"\*", r"[^.]+")


@dataclass(frozen=True)
class _Where:
    """One name taken apart: the name itself, an expression or not, and the text in the brackets."""

    name: str
    expression: re.Pattern[str] | None = None
    layers: str | None = None

    @classmethod
    def parse(cls, name: str) -> _Where:
        if name.startswith(EXPRESSION):
            text = name.removeprefix(EXPRESSION)
            try:
                return cls(name, re.compile(rf"(?:.*\.)?(?:{text})"))
            except re.error as error:
                raise DeltaError(
                    f"{text!r} is no regular expression", found=str(error), hint=r"where=('re:layer\.[0-3]\..*query',)"
                ) from error
        match = _LAYERS.fullmatch(name)
        return cls(name) if match is None else cls(match["name"], layers=match["layers"])

    def matches(self, full: str) -> bool:
        return self.expression.fullmatch(full) is not None if self.expression else matches_end(full, self.name)


class Names:
    """The names of one model: those of its modules and the common ones."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = named_modules(model)
        self.common = common_names(model)
        self._spelled = [(spelling, c.place) for c in self.common for spelling in (c.full, c.across)]
        self._layers: dict[str, tuple[str, int]] | None = None

    def meant(self, name: str, inside: bool = False) -> set[str]:
        """The modules that one name means; with `inside` those inside them too.

        Raises:
            DeltaError: there are none.
        """
        asked = _Where.parse(name)
        common = {place for spelling, place in self._spelled if asked.matches(spelling)}
        if inside:  # `decoder` and `ff` are no modules of their own everywhere, but names have them in front
            common |= {place for spelling, place in self._spelled if any(map(asked.matches, fronts(spelling)))}
        own = {full for full in self.modules if full and asked.matches(full)}
        found = own or common if asked.expression else common or own
        if not found:
            raise _unknown(asked.name, self.model, list(self.modules), self.common)
        if asked.layers is not None:
            found = self._in_layers(found, asked)
        if inside:
            found |= {other for other in self.modules if not found.isdisjoint(fronts(other))}
        return found

    def layer_of(self, place: str) -> tuple[str, int] | None:
        """(stack, number) of the block that a module is or stands in; None outside of blocks."""
        if self._layers is None:
            self._layers = {c.place: (c.stack, c.block) for c in self.common if c.block is not None}
        block = next((front for front in (place, *fronts(place)) if front in self._layers), None)
        return stack_and_index(place) if block is None else self._layers[block]

    def _in_layers(self, found: Iterable[str], asked: _Where) -> set[str]:
        """Those of the places that stand in the layers asked for, counted in each stack by itself."""
        placed = {place: layer for place in found if (layer := self.layer_of(place)) is not None}
        known: dict[str, int] = {}
        for layer in map(self.layer_of, self.modules):
            if layer is not None:
                known[layer[0]] = max(known.get(layer[0], 0), layer[1] + 1)
        kept = {place for place, (stack, number) in placed.items() if number in _chosen(asked, known[stack])}
        if not kept:
            stacks = {stack: known[stack] for stack, _ in placed.values()}
            raise DeltaError(
                f"{asked.name!r} has no layers [{asked.layers}] in {type(inner_model(self.model)).__name__}",
                found="; ".join(f"{stack or 'layers'}: 0 to {n - 1}" for stack, n in stacks.items())
                or "it stands outside of the layers",
                hint=f"where=('{asked.name}[0:2]',)" if stacks else f"where=({asked.name!r},)",
            )
        return kept


def _chosen(asked: _Where, n: int) -> range:
    """Numbers of the layers in the brackets, of `n` there are."""
    text = asked.layers or ""
    match = _SLICE.fullmatch(text)
    parts = [None if part is None else int(part) for part in match.groups()] if match else []
    if not text.strip() or not match or parts[2] == 0:
        raise DeltaError(
            f"cannot read the layers in {f'{asked.name}[{text}]'!r}",
            hint=f"'{asked.name}[0:3]' for the first three, '{asked.name}[-1]' for the last",
        )
    if ":" in text:
        return range(n)[slice(*parts)]
    number = parts[0] or 0
    return range(n)[number : number + 1 or None] if -n <= number < n else range(0)


def _unknown(name: str, model: nn.Module, modules: list[str], common: list[Common]) -> DeltaError:
    # A short name is compared with ends of the same number of parts, a full one with full names.
    parts = name.count(".") + 1
    ends = {".".join(full.split(".")[-parts:]) for full in modules if full}
    known = list(by_part(common))
    full = [spelling for c in common for spelling in (c.across, c.full)]
    close = difflib.get_close_matches(name, dict.fromkeys([*known, *full, *sorted(ends), *modules]), n=3, cutoff=0.5)
    nothing = "no common structure; name modules by the end of their names"
    return DeltaError(
        f"no place named {name!r} in {type(inner_model(model)).__name__}",
        found=f"closest: {', '.join(close)}" if close else f"common names {', '.join(known)}" if known else nothing,
        hint=f"where=({close[0]!r},)" if close else "list(structure(model)) shows the common names",
    )
