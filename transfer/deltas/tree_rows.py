"""A tree made short for the eye: lists join the names of what they hold, and layers that are alike are folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transfer.deltas.tree import Counts, Node


@dataclass(frozen=True)
class Row:
    """One line: a module, or several that differ in nothing but their numbers.

    Args:
        label: Name in the row above: `query`, `layer.0-5`.
        nodes: The modules; the first stands for all.
        children: The rows inside.
    """

    label: str
    nodes: tuple[Node, ...]
    children: tuple[Row, ...]

    @property
    def first(self) -> Node:
        """The one that stands for all."""
        return self.nodes[0]

    @property
    def counts(self) -> Counts:
        """Of all its modules together."""
        return Counts.total(node.counts for node in self.nodes)

    @property
    def common(self) -> str:
        """The common name without its number: `attn.q`; that of a block with its stack: `encoder.block`."""
        names = self.first.common
        if not names:
            return ""
        return names[0].across if names[0].part == "block" else names[0].part

    def walk(self) -> Iterator[Row]:
        """Itself and all inside it."""
        yield self
        for child in self.children:
            yield from child.walk()


def rows_of(root: Node, everything: bool = False, fold: bool = True) -> Row:
    """The rows of a tree.

    Args:
        root: The model.
        everything: Keep modules that hold no parameter, delta or common name, such as dropout.
        fold: Make one row of the members of a list that are alike. Those that differ keep rows of their own.
    """
    return _row(root.label, (root,), everything, fold)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in few letters.

    >>> ranges([0, 1, 2, 5]), ranges([3])
    ('0-2,5', '3')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _row(label: str, nodes: tuple[Node, ...], everything: bool, fold: bool) -> Row:
    return Row(label, nodes, tuple(_children(nodes, "", everything, fold)))


def _children(nodes: tuple[Node, ...], front: str, everything: bool, fold: bool) -> Iterator[Row]:
    """Rows of what is inside `nodes`, which are alike, so their children stand in the same order."""
    groups: dict[object, list[int]] = {}
    for index, child in enumerate(nodes[0].children):
        if everything or _says_something(child):
            numbered = fold and child.label.isdecimal()
            groups.setdefault(child.alike if numbered else index, []).append(index)
    for indices in groups.values():
        inside = tuple(node.children[index] for index in indices for node in nodes)
        labels = [nodes[0].children[index].label for index in indices]
        label = front + (ranges([int(text) for text in labels]) if len(labels) > 1 else labels[0])
        if inside[0].container and not inside[0].common and not inside[0].deltas and inside[0].children:
            yield from _children(inside, f"{label}.", everything, fold)
        else:
            yield _row(label, inside, everything, fold)


def _says_something(node: Node) -> bool:
    return bool(node.parameters or node.deltas or node.common) or any(map(_says_something, node.children))
