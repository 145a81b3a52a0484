"""Which block of the backbone a tensor or a place belongs to."""

from __future__ import annotations

from collections.abc import Iterable

from transfer.errors import DeltaError


def stack_and_index(name: str) -> tuple[str, int] | None:
    """(what stands before the first number in a name, that number); None for a name without one."""
    parts = name.split(".")
    for position, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[:position]), int(part)
    return None


def block_of(name: str) -> int | None:
    """Layer index of a tensor name or a place, counted within its own stack; None outside the blocks.

    The first number in the name is the layer: T5's `layer.0` inside `block.3` is a part of block 3.

    >>> block_of("encoder.block.3.layer.0.SelfAttention.q.lora_A"), block_of("embeddings.word_embeddings")
    (3, None)
    """
    found = stack_and_index(name)
    return None if found is None else found[1]


def block_indices(names: Iterable[str]) -> dict[str, int | None]:
    """Block of each name, counted over all stacks: a decoder's blocks come after the encoder's.

    Args:
        names: Tensor names or places of one delta, in any order.
    Returns:
        name -> block in 0 .. n_blocks(names) - 1, or None outside the blocks, in the order given. Stacks are
        ordered by name (`decoder` after `encoder`), and each has as many blocks as its highest index says.

    >>> block_indices(["encoder.block.1.q", "decoder.block.0.q", "shared"])
    {'encoder.block.1.q': 1, 'decoder.block.0.q': 2, 'shared': None}
    """
    names = list(names)
    found = {name: stack_and_index(name) for name in names}
    sizes: dict[str, int] = {}
    for place in found.values():
        if place is not None:
            stack, index = place
            sizes[stack] = max(sizes.get(stack, 0), index + 1)
    starts, total = {}, 0
    for stack in sorted(sizes, key=lambda stack: ("decoder" in stack.split("."), stack)):
        starts[stack] = total
        total += sizes[stack]
    return {name: None if place is None else starts[place[0]] + place[1] for name, place in found.items()}


def n_blocks(names: Iterable[str]) -> int:
    """Number of blocks over all stacks that the names reach.

    Raises:
        DeltaError: `names` is empty.
    """
    names = list(names)
    if not names:
        raise DeltaError("no tensor names given, so there are no blocks to count")
    return max((-1 if block is None else block for block in block_indices(names).values()), default=-1) + 1


class BlockColumns:
    """The column of a (modules, blocks) table that a place or a tensor belongs to.

    Args:
        names: Places or tensor names that say which stacks there are and how many blocks each has.

    >>> columns = BlockColumns(["encoder.block.1.q", "decoder.block.0.q"])
    >>> columns["decoder.block.0.q.lora_A"], columns["shared"], columns.outside
    (2, 3, 3)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._starts: dict[str, int] = {}
        self.outside = 0  # the number of blocks: the column of what lies in none of them
        for name, block in block_indices(names).items():
            place = stack_and_index(name)
            if place is not None and block is not None:
                self._starts[place[0]] = block - place[1]
                self.outside = max(self.outside, block + 1)

    def __getitem__(self, name: str) -> int:
        place = stack_and_index(name)
        return self.outside if place is None or place[0] not in self._starts else self._starts[place[0]] + place[1]
