"""Common structure by description: for an architecture that the rules do not know, or know wrongly.

A description maps common names to names of modules, relative to the module it describes. It lies on the module, or on
its class, so it is found wherever that module stands, also inside another model. `exceptions.json` has those of a few
classes of transformers.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple

from torch import nn

from transfer.deltas.modules import named_modules
from transfer.deltas.stacks import block_numbers
from transfer.errors import ConfigError, DeltaError

ATTRIBUTE = "_common_structure"
Description = dict[str, tuple[str, ...]]

_KEY = re.compile(r"(?:(?:(?P<stack>[^*]+)\.)?block\.(?P<number>\*|\d+)(?:\.|$))?(?P<part>[^*]*)")


class Described(NamedTuple):
    """One module that a description names.

    Args:
        part: Common name without its block; `block` for the block itself.
        place: Name of the module, relative to the described one.
        stack: What stands before `block` in the common name, "" if nothing does.
        block: Name of the block it stands in, up to the last star of the description; "" without one.
        number: Of the block: as given, else by the block's name or its position; None without a star.
    """

    part: str
    place: str
    stack: str
    block: str
    number: int | None


def describe(model: nn.Module | type[nn.Module], names: Mapping[str, str | Sequence[str]]) -> None:
    """Say where the common parts of an architecture are; `structure` and `where=` know them from then on.

    Args:
        model: A model, or a class: then it holds for all its instances, also inside other models.
        names: Common name -> name of the module in the model, or several. `*` stands for one part of a name; as a
            number it is the block: {"attn.q": "layers.*.mixer.query"}. Longer common names choose stack and block
            themselves: {"encoder.block.*.attn.q": "lower.*.query", "decoder.block.0.ff.w2": "head.out"}. What a
            name is given here replaces what the rules find under it; () drops it. Another call adds to the first.
    Raises:
        ConfigError: `names` is no such mapping.
        DeltaError: `model` is a model, and one of the names matches none of its modules.

    >>> class Mixer(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    >>> describe(Mixer, {"ff.w2": "layers.*"})
    >>> from transfer.deltas import structure
    >>> structure(Mixer())["ff.w2"]
    ['layers.0', 'layers.1', 'layers.2']
    """
    described: Description = {}
    for name, patterns in names.items():
        given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if not name or not _KEY.fullmatch(name) or not all(isinstance(p, str) and p for p in given):
            raise ConfigError(
                f"{name!r}: {patterns!r} is no common name with the name of a module",
                hint='describe(model, {"attn.q": "layers.*.mixer.query"})',
            )
        described[name] = given
    if isinstance(model, nn.Module):
        _resolve(described, type(model).__name__, [name for name in named_modules(model) if name])
    setattr(model, ATTRIBUTE, getattr(model, ATTRIBUTE, {}) | described)


def description_of(module: nn.Module) -> Description:
    """What was said of this module or its class; empty if nothing was."""
    said: Description = getattr(module, ATTRIBUTE, {})
    kind = type(module)
    known = _exceptions().get(kind.__name__, {}) if kind.__module__.startswith("transformers.") else {}
    return known | said


@functools.cache
def _exceptions() -> dict[str, Description]:
    """Name of a class -> its description."""
    text = files("transfer.deltas").joinpath("exceptions.json").read_text(encoding="utf-8")
    return {kind: {name: (place,) for name, place in said.items()} for kind, said in json.loads(text).items()}


def resolve(module: nn.Module, names: Sequence[str]) -> tuple[set[str], list[Described]]:
    """(common parts that the description settles, the modules it names).

    Args:
        module: A module with a description.
        names: Names of all modules inside it, relative to it.
    Raises:
        DeltaError: a name in the description matches no module.
    """
    said = description_of(module)
    parts = {match["part"] or "block" for match in map(_KEY.fullmatch, said) if match}
    return parts, _resolve(said, type(module).__name__, names)


def _resolve(said: Description, kind: str, names: Sequence[str]) -> list[Described]:
    found = []
    blocks: dict[str, list[str]] = {}  # a pattern up to its last star -> the blocks it means
    for common, patterns in said.items():
        key = _KEY.fullmatch(common)
        assert key is not None  # `describe` let it in
        given = int(key["number"]) if (key["number"] or "*") != "*" else None
        for pattern in patterns:
            expression = re.compile(re.escape(pattern).replace(r"\*", "([^.]+)"))
            matches = [match for match in map(expression.fullmatch, names) if match]
            if not matches:
                close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
                raise DeltaError(
                    f"the description of {kind} names {pattern!r} as {common!r}, and there is no such module",
                    found=f"closest: {', '.join(close)}" if close else f"modules: {', '.join(names[:5])}, ...",
                    hint="`*` stands for one part of a name: 'layers.*.query'",
                )
            for match in matches:
                block = match.string[: match.end(match.lastindex)] if match.lastindex else ""
                blocks.setdefault(pattern[: pattern.rfind("*") + 1], []).append(block)
                found.append(Described(key["part"] or "block", match.string, key["stack"] or "", block, given))
    order = {name: position for position, name in enumerate(names)}
    numbers = {
        block: number
        for stars, alike in blocks.items()
        if stars
        for block, number in block_numbers(sorted(alike, key=order.__getitem__)).items()
    }
    return [d if d.number is not None else d._replace(number=numbers.get(d.block)) for d in found]
