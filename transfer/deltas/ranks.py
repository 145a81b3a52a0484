"""How many ranks a LoRA or SoRA has at each place, and how many of its parameters act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.deltas.attached import Attached
from transfer.deltas.blocks import block_indices, stack_and_index
from transfer.deltas.delta import Delta
from transfer.deltas.lora import LoRA
from transfer.deltas.sora import GATE
from transfer.errors import DeltaError


@dataclass(frozen=True)
class PlaceRank:
    """One place: `kept` of `start` ranks act; `width` is in + out, the parameters of one rank. `block` may be None."""

    place: str
    kept: int
    start: int
    width: int
    block: int | None
    part: str


@dataclass(frozen=True)
class Ranks:
    """All places in model order."""

    places: tuple[PlaceRank, ...]

    @property
    def kept(self) -> dict[str, int]:
        """Place -> ranks that act."""
        return {place.place: place.kept for place in self.places}

    @property
    def by_block(self) -> dict[int | None, int]:
        """Block -> ranks that act there, over all its places."""
        found: dict[int | None, int] = {}
        for place in self.places:
            found[place.block] = found.get(place.block, 0) + place.kept
        return found

    @property
    def parameters(self) -> int:
        """Values of A and B that act: what a pruned LoRA stores."""
        return sum(place.kept * place.width for place in self.places)

    @property
    def start_parameters(self) -> int:
        """Values of A and B at the rank of the start."""
        return sum(place.start * place.width for place in self.places)

    @property
    def share(self) -> float:
        """Parameters kept, of those at the start, in [0, 1]."""
        return self.parameters / self.start_parameters

    def grid(self) -> tuple[list[str], list[str], np.ndarray]:
        """(parts, blocks, ranks (parts, blocks)); NaN where a block has no such part. Outside of blocks: "-"."""
        parts = list(dict.fromkeys(place.part for place in self.places))
        blocks = sorted({-1 if place.block is None else place.block for place in self.places})
        ranks = np.full((len(parts), len(blocks)), np.nan)
        for place in self.places:
            ranks[parts.index(place.part), blocks.index(-1 if place.block is None else place.block)] = place.kept
        return parts, ["-" if block < 0 else str(block) for block in blocks], ranks

    def to_json(self) -> dict[str, Any]:
        """Ranks by place and by block, parameters and their share."""
        return {
            "ranks": self.kept,
            "ranks_by_block": {"-" if block is None else str(block): n for block, n in self.by_block.items()},
            "parameters": self.parameters,
            "start_parameters": self.start_parameters,
            "share": self.share,
        }


def ranks_of(thing: Any) -> Ranks:
    """Count the ranks that act: of a SoRA those whose gate is not zero, of a LoRA all.

    Args:
        thing: A `Delta`, what is attached, a stored module, or what holds a delta.
    Raises:
        DeltaError: it is neither LoRA nor SoRA.
    """
    delta = Delta.from_attached(thing) if isinstance(thing, Attached) else Delta.of(thing)
    if not isinstance(delta.method, LoRA):
        raise DeltaError(f"a {delta.method.method} has no ranks to count", hint="LoRA() and SoRA() have")
    found = [name.removesuffix(".lora_A") for name in delta.tensors if name.endswith(".lora_A")]
    blocks = block_indices(found)
    rows = []
    for place in found:
        a, b = delta.tensors[f"{place}.lora_A"], delta.tensors[f"{place}.lora_B"]
        gate = delta.tensors.get(f"{place}.{GATE}")
        kept = a.shape[0] if gate is None else int(gate.count_nonzero())
        rows.append(PlaceRank(place, kept, a.shape[0], a.shape[1] + b.shape[0], blocks[place], _part(place)))
    return Ranks(tuple(rows))


def _part(place: str) -> str:
    """What is behind the number of the block: `attention.self.query`; the whole name outside of blocks."""
    numbered = stack_and_index(place)
    if numbered is None:
        return place
    stack, index = numbered
    return place.removeprefix(f"{stack}." if stack else "").removeprefix(f"{index}").removeprefix(".") or place
