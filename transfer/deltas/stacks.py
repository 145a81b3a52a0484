"""Stacks of blocks: which blocks belong together, what the stack is called, and the number of each block in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from transfer.deltas.dotted import shared_parts

_STRIPPED = re.compile(r"_?(model|tower|encoder|decoder|backbone|stack)$")


def block_numbers(blocks: Iterable[str]) -> dict[str, int]:
    """Name of a block -> its number: that in its name where all stand in one list, else its position.

    >>> block_numbers(["encoder.layer.0", "encoder.layer.4"])
    {'encoder.layer.0': 0, 'encoder.layer.4': 4}
    >>> block_numbers(["groups.0.layers.0", "groups.0.layers.1", "groups.1.layers.0"])
    {'groups.0.layers.0': 0, 'groups.0.layers.1': 1, 'groups.1.layers.0': 2}
    """
    blocks = list(dict.fromkeys(blocks))
    own = [block.rpartition(".") for block in blocks]
    if len({parent for parent, _, _ in own}) == 1 and all(number.isdecimal() for _, _, number in own):
        return {block: int(number) for block, (_, _, number) in zip(blocks, own, strict=True)}
    return {block: position for position, block in enumerate(blocks)}


def find_stacks(causal: Mapping[str, bool | None]) -> dict[str, tuple[str, int]]:
    """Name of a block -> (name of its stack, number in it).

    A stack is an `encoder` or a `decoder`, by the names around its blocks, else by whether its attention is causal.
    Where a model has several of one kind a word of their names tells them apart: `text.encoder`, `vision.encoder`.

    Args:
        causal: Name of a block -> whether its attention is causal, None if that is unknown; in model order.
    """
    stacks: dict[str, list[str]] = {}
    for block in causal:
        # Lists inside lists, as ALBERT's groups, are one stack.
        path = ".".join("*" if part.isdecimal() else part for part in block.split("."))
        stacks.setdefault(path.removesuffix("*").rstrip("."), []).append(block)
    kinds = {path: _kind(path, causal[blocks[0]]) for path, blocks in stacks.items()}
    found: dict[str, tuple[str, int]] = {}
    for path, blocks in stacks.items():
        alike = [other for other, kind in kinds.items() if kind == kinds[path]]
        words = [_word(path, alike)] if len(alike) > 1 else []
        stack = ".".join(filter(None, [*words, kinds[path]]))
        found |= {block: (stack, number) for block, number in block_numbers(blocks).items()}
    return found


def _kind(path: str, causal: bool | None) -> str:
    for part in reversed(path.lower().split(".")):
        if "decoder" in part or "encoder" in part:
            return "decoder" if "decoder" in part else "encoder"
    return "" if causal is None else "decoder" if causal else "encoder"


def _word(path: str, alike: list[str]) -> str:
    """What tells a stack from others of its kind: the first part of its path that is its own, without `_model`."""
    parts = path.split(".")
    shared = shared_parts(alike)
    words = {other: other.split(".")[shared : shared + 1] for other in alike}
    short = {other: [_STRIPPED.sub("", word) or word for word in own] for other, own in words.items()}
    if all(short.values()) and len({tuple(own) for own in short.values()}) == len(alike):
        return short[path][0]
    return "_".join(parts[shared:]) or "first"
