"""Dotted names, taken apart."""

from __future__ import annotations

from collections.abc import Iterable


def fronts(name: str) -> list[str]:
    """What stands in front of the dots of a name, the longest first: the modules that hold it, without the root.

    >>> fronts("encoder.layer.0")
    ['encoder.layer', 'encoder']
    """
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def joined(front: str, name: str) -> str:
    """The name of what is called `name` inside `front`; the root has no name.

    >>> joined("encoder.layer", "0"), joined("", "encoder")
    ('encoder.layer.0', 'encoder')
    """
    return f"{front}.{name}" if front else name


def shared_parts(names: Iterable[str]) -> int:
    """How many parts all the names begin with.

    >>> shared_parts(["text.encoder.layers", "text.encoder.embeddings"]), shared_parts(["text", "texts"])
    (2, 0)
    """
    count = 0
    for parts in zip(*(name.split(".") for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count
