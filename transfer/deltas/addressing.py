"""From the names in `where=` to the places in a model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from transfer.deltas.common_structure import structure
from transfer.deltas.modules import inner_model, named_modules
from transfer.errors import DeltaError


def find_places(model: nn.Module, where: Sequence[str]) -> list[str]:
    """Names of the modules that `where` means, in model order, each once.

    Args:
        model: Any model or a `Backbone`; names are relative to the inner model.
        where: Common-structure names (`attn.q`, `ff.w2`; they come first), or ends of module names: `query` and
            `self.query` match `encoder.layer.0.attention.self.query`, `ery` does not.
    Raises:
        DeltaError: `where` is empty, or one of its names matches nothing; says the closest that exist.
    """
    if not where:
        raise DeltaError("where= is empty, so there is no place to attach to", hint="where=('attn.q', 'attn.v')")
    modules, common = named_modules(model), structure(model)
    chosen: set[str] = set()
    for name in where:
        matches = common.get(name) or [full for full in modules if full and matches_end(full, name)]
        if not matches:
            raise _unknown(name, model, list(modules), common)
        chosen.update(matches)
    return [name for name in modules if name in chosen]


def check_places(model: nn.Module, places: Sequence[str]) -> list[str]:
    """The exact places, once it is sure that the model has them all.

    Raises:
        DeltaError: a place is not in the model; names it and the closest that exist.
    """
    modules = named_modules(model)
    for place in places:
        if place not in modules:
            raise _unknown(place, model, list(modules), {})
    return list(places)


def matches_end(full: str, name: str) -> bool:
    """True if `full` ends with `name` at a dot or as a whole.

    >>> matches_end("encoder.layer.0.output.dense", "output.dense"), matches_end("layer.input", "put")
    (True, False)
    """
    return full == name or full.endswith(f".{name}")


def _unknown(name: str, model: nn.Module, modules: list[str], common: dict[str, list[str]]) -> DeltaError:
    # A short name is compared with ends of the same number of parts, a full one with full names.
    parts = name.count(".") + 1
    ends = {".".join(full.split(".")[-parts:]) for full in modules if full}
    close = difflib.get_close_matches(name, [*common, *sorted(ends), *modules], n=3, cutoff=0.5)
    known = (
        f"common names {', '.join(common)}" if common else "no common structure; name modules by the end of their names"
    )
    return DeltaError(
        f"no place named {name!r} in {type(inner_model(model)).__name__}",
        found=f"closest: {', '.join(close)}" if close else known,
        hint=f"where=({close[0]!r},)" if close else "list(structure(model)) shows the common names",
    )
