"""Weights: one per module, or one per module and block of the backbone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.deltas.blocks import BlockColumns
from transfer.errors import ConfigError

WeightTable = Mapping[str, float | Sequence[float] | np.ndarray]

SUM_TOLERANCE = 1e-6  # weights that sum to 1 within it need no start; those of fp32 do


class Weights:
    """What each module weighs at each place.

    Args:
        table: Module id -> weight, or (blocks,) weights; all of the same kind. Blocks are counted over all stacks, a
            decoder's after the encoder's, as `block_indices` has it. What lies outside the blocks (embeddings) gets
            the mean over blocks.
        places: Places or tensor names of all modules of the table, those at weight 0 included: they say how many
            blocks there are.
    Raises:
        ConfigError: a weight is not a finite number, or the table has not one weight for each block.
    """

    def __init__(self, table: WeightTable, places: Iterable[str]) -> None:
        if not table:
            raise ConfigError("there are no weights, so there is nothing to merge", hint="weigh(scores) makes some")
        rows = {module_id: _row(module_id, weight) for module_id, weight in table.items()}
        kinds = {len(row) if row.ndim else 0 for row in rows.values()}
        if len(kinds) > 1:
            raise ConfigError(
                "the weights of one merge are numbers, or lists of one length",
                found=", ".join(f"{n} of a module" if n else "one number" for n in sorted(kinds)),
            )
        self.per_block = 0 not in kinds
        self._blocks = BlockColumns(places if self.per_block else ())
        if self.per_block:
            (columns,) = kinds
            if columns != self._blocks.outside:
                raise ConfigError(
                    f"there are {columns} weights for each module, and the modules reach {self._blocks.outside} blocks",
                    found="weights per block are a (modules, blocks) table",
                    hint="score(..., per_block=True) and weigh make one",
                )
            rows = {module_id: np.append(row, row.mean()) for module_id, row in rows.items()}
        self._rows = {module_id: row.reshape(-1) for module_id, row in rows.items()}

    @property
    def columns(self) -> int:
        """1, or the blocks and one column for what lies outside them."""
        return len(next(iter(self._rows.values())))

    def column(self, name: str) -> int:
        """The column that a place or a tensor name belongs to."""
        return self._blocks[name] if self.per_block else 0

    def at(self, module_id: str, name: str) -> float:
        """The weight of a module at a place or tensor."""
        return float(self._rows[module_id][self.column(name)])

    def many(self, ids: Sequence[str], name: str) -> np.ndarray:
        """(ids,), float64: the weights of several modules there."""
        column = self.column(name)
        return np.array([self._rows[module_id][column] for module_id in ids])

    def sums(self, ids: Iterable[str]) -> list[float]:
        """The sum over modules of each column, exact before it is rounded."""
        rows = [self._rows[module_id] for module_id in ids]
        return [math.fsum(row[column] for row in rows) for column in range(self.columns)]

    def row(self, module_id: str) -> np.ndarray:
        """(columns,): all weights of a module."""
        return self._rows[module_id]

    def average_only(self, ids: Iterable[str]) -> bool:
        """True if every column is at least 0 and sums to 1."""
        ids = list(ids)
        return all(bool((self._rows[i] >= 0).all()) for i in ids) and all(
            abs(total - 1) <= SUM_TOLERANCE for total in self.sums(ids)
        )


def _row(module_id: str, weight: Any) -> np.ndarray:
    try:
        row = np.asarray(weight, dtype=np.float64)
    except (TypeError, ValueError):
        row = np.array(math.nan)
    if isinstance(weight, str) or row.ndim > 1 or not row.size or not np.isfinite(row).all():
        raise ConfigError(f"the weight of module {module_id!r} is {weight!r}, not a finite number")
    return row
