"""From the names in `where=` and `exclude=` to the places in a model.

A name is one of
- a common-structure name or the end of one: `attn.q`, `decoder.attn.q`, `encoder.block.0.attn.q`;
- the end of a module's name: `query`, `self.query`, `encoder.layer.0.attention.self.query`;
- `re:` and a regular expression, which has to match the end of a module's name from a dot on, or all of it.

`*` in the first two stands for one part of a name. Layers may follow in brackets, counted as Python counts, or stand
where their number does, the last one included after a dash: `attn.q[0:3]`, `query[-1]`, `decoder.ff.w2[::2]`,
`attn.q[0-2,5]`, `encoder.block[0:3].attn.q`, `encoder.block.0-2.attn.q`. Layers stand in the name and not in a setting
of their own, so that one method can take some layers of one part and others of another, and `exclude=` reads the same.

Where one layer computes several parts, as GPT-2's `c_attn` does query, key and value, a common name means the outputs
that are its own (see `fused`), and the layer's own name all of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from transfer.deltas.asked import Asked
from transfer.deltas.attention import KEY, PROJECTION, QUERY, VALUE
from transfer.deltas.blocks import stack_and_index
from transfer.deltas.common_structure import Common, by_part, common_names, spellings
from transfer.deltas.dotted import fronts
from transfer.deltas.fused import fused_layers
from transfer.deltas.modules import inner_model, named_modules
from transfer.errors import DeltaError

Parts = dict[str, frozenset[str]]  # place -> parts of its fused layer; none for a place that is meant as a whole
WHOLE: frozenset[str] = frozenset()
KIN = {"q": QUERY, "k": KEY, "v": VALUE, "proj": PROJECTION}  # part -> what models call it


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
    return list(find_parts(model, where, exclude))


def find_parts(model: nn.Module, where: Sequence[str], exclude: Sequence[str] = ()) -> Parts:
    """The places that `find_places` finds, each with the parts of its fused layer that are meant.

    No parts are given for a place that is meant as a whole, as all layers are that compute one part only.
    """
    if not where:
        raise DeltaError("where= is empty, so there is no place to attach to", hint="where=('attn.q', 'attn.v')")
    names = Names(model)
    chosen: Parts = {}
    for name in where:
        for place, parts in names.meant(name).items():
            chosen[place] = chosen.get(place, parts) | parts if parts and chosen.get(place, parts) else WHOLE
    left = dict(chosen)
    for name in exclude:
        for place, parts in names.meant(name, inside=True).items():
            rest = (left.get(place) or frozenset(names.fused.get(place, ()))) - parts if parts else WHOLE
            if rest and place in left:
                left[place] = rest
            else:
                left.pop(place, None)
    if not left:
        raise DeltaError(
            f"exclude={tuple(exclude)!r} leaves no place of where={tuple(where)!r}",
            found=f"{len(chosen)} places before, such as {min(chosen)}",
        )
    all_parts = {place: frozenset(parts) for place, parts in names.fused.items()}
    return {name: WHOLE if left[name] == all_parts.get(name) else left[name] for name in names.modules if name in left}


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


class Names:
    """The names of one model: those of its modules and the common ones."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = named_modules(model)
        self.common = common_names(model)
        self.fused = fused_layers((common.part, common.place) for common in self.common)
        self._spelled = [(spelling, common) for common in self.common for spelling in spellings(common)]
        self._layers: dict[str, tuple[str, int]] | None = None

    def meant(self, name: str, inside: bool = False) -> Parts:
        """The modules that one name means; with `inside` those inside them too.

        Raises:
            DeltaError: there are none.
        """
        asked = Asked.parse(name)
        common = self._common([c for spelling, c in self._spelled if asked.matches(spelling)])
        if inside:  # `decoder` and `ff` are no modules of their own everywhere, but names have them in front
            held = [c for spelling, c in self._spelled if any(map(asked.matches, fronts(spelling)))]
            common |= dict.fromkeys(self._common(held), WHOLE)
        own = {full: WHOLE for full in self.modules if full and asked.matches(full)}
        found = own or common if asked.expression else common or own
        if not found:
            raise _unknown(asked.name, self.model, list(self.modules), self.common)
        if asked.layers is not None:
            found = self._in_layers(found, asked)
        if inside:
            whole = {place for place, parts in found.items() if not parts}
            found |= {other: WHOLE for other in self.modules if not whole.isdisjoint(fronts(other))}
        return found

    def layer_of(self, place: str) -> tuple[str, int] | None:
        """(stack, number) of the block that a module is or stands in; None outside of blocks."""
        if self._layers is None:
            self._layers = {c.place: (c.stack, c.block) for c in self.common if c.block is not None}
        block = next((front for front in (place, *fronts(place)) if front in self._layers), None)
        return stack_and_index(place) if block is None else self._layers[block]

    def _common(self, matched: Iterable[Common]) -> Parts:
        found: Parts = {}
        for common in matched:
            own = frozenset({common.part}) & frozenset(self.fused.get(common.place, ()))
            found[common.place] = found.get(common.place, own) | own if own else WHOLE
        return found

    def _in_layers(self, found: Mapping[str, frozenset[str]], asked: Asked) -> Parts:
        """Those of the places that stand in the layers asked for, counted in each stack by itself."""
        placed = {place: layer for place in found if (layer := self.layer_of(place)) is not None}
        known: dict[str, int] = {}
        for layer in map(self.layer_of, self.modules):
            if layer is not None:
                known[layer[0]] = max(known.get(layer[0], 0), layer[1] + 1)
        kept = {place for place, (stack, number) in placed.items() if number in asked.chosen(known[stack])}
        if not kept:
            stacks = {stack: known[stack] for stack, _ in placed.values()}
            there = "; ".join(f"{stack or 'layers'}: 0 to {n - 1}" for stack, n in stacks.items())
            raise DeltaError(
                f"{asked.name!r} has no layers [{asked.layers}] in {type(inner_model(self.model)).__name__}",
                found=there + self._shared(stacks) if there else "it stands outside of the layers",
                hint=f"where=('{asked.name}[0:2]',)" if stacks else f"where=({asked.name!r},)",
            )
        return {place: found[place] for place in found if place in kept}

    def _shared(self, stacks: Mapping[str, int]) -> str:
        """What there is to say where a config counts more layers than there are modules, as ALBERT's does."""
        configs = (getattr(module, "config", None) for module in self.modules.values())
        counts = (getattr(config, "num_hidden_layers", None) for config in configs)
        layers = next((count for count in counts if isinstance(count, int)), 0)
        if len(stacks) != 1 or layers <= max(stacks.values()):
            return ""
        return f", which the model runs {layers} times in all: layers that share weights are one place"


def _unknown(name: str, model: nn.Module, modules: list[str], common: list[Common]) -> DeltaError:
    # A short name is compared with ends of the same number of parts, a full one with full names.
    parts = name.count(".") + 1
    ends = {".".join(full.split(".")[-parts:]) for full in modules if full}
    known = list(by_part(common))
    full = [spelling for c in common for spelling in (c.across, c.full)]
    close = difflib.get_close_matches(name, dict.fromkeys([*known, *full, *sorted(ends), *modules]), n=3, cutoff=0.5)
    kin = [f"attn.{part}" for part, words in KIN.items() if name.rpartition(".")[2] in words]  # another model's name
    close = list(dict.fromkeys([*(part for part in kin if part in known), *close]))[:3]
    nothing = "no common structure; name modules by the end of their names"
    return DeltaError(
        f"no place named {name!r} in {type(inner_model(model)).__name__}",
        found=f"closest: {', '.join(close)}" if close else f"common names {', '.join(known)}" if known else nothing,
        hint=f"where=({close[0]!r},)" if close else "transfer inspect MODEL, or list(structure(model))",
    )
