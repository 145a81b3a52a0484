"""Scores: what an estimator says of every source module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Scores:
    """One similarity per module.

    Args:
        ids: Module ids, each once.
        values: (modules,), float64; higher is closer.
        estimator: Full name of the estimator, such as "gradient:first-order".
        seconds: Time it took, the loading of the backbone not counted.
        blocks: (modules, blocks), float64, where every block of the backbone was scored by itself: blocks are counted
            over all stacks that the modules reach, as `block_indices` has it. None else.
    Raises:
        ConfigError: an id is there twice, or the numbers of ids and of values differ.
    """

    ids: list[str]
    values: np.ndarray
    estimator: str
    seconds: float = 0.0
    blocks: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", list(self.ids))
        twice = [module_id for module_id, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise ConfigError(
                f"module {twice[0]!r} has several scores",
                found=f"{len(self.ids)} ids, {len(set(self.ids))} of them different",
                hint="one value for each module",
            )
        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(self.ids),):
            raise ConfigError(f"{len(self.ids)} ids and values of shape {values.shape}", hint="one value for each id")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        if self.blocks is not None:
            blocks = np.array(self.blocks, dtype=np.float64)
            if blocks.ndim != 2 or len(blocks) != len(self.ids):
                raise ConfigError(
                    f"{len(self.ids)} ids and scores per block of shape {blocks.shape}",
                    hint="a row for each id, with a value for each block",
                )
            blocks.flags.writeable = False
            object.__setattr__(self, "blocks", blocks)

    @classmethod
    def from_pairs(cls, ids: Sequence[str], values: Sequence[float], estimator: str = "given") -> Scores:
        """Scores that come from elsewhere, such as a table of one's own."""
        return cls(list(ids), np.asarray(values, dtype=np.float64), estimator)

    @classmethod
    def none(cls, ids: Sequence[str]) -> Scores:
        """In place of scores that cannot be had, where weights need none: 0 for every module."""
        return cls(list(ids), np.zeros(len(ids)), "uniform")

    def __len__(self) -> int:
        return len(self.ids)

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k closest modules as (id, value), closest first; equal values in the order of their ids."""
        order = sorted(range(len(self)), key=lambda index: (-self.values[index], self.ids[index]))
        return [(self.ids[index], float(self.values[index])) for index in order[: max(k, 0)]]

    def as_dict(self) -> dict[str, float]:
        """id -> value, in the order of `ids`."""
        return {module_id: float(value) for module_id, value in zip(self.ids, self.values, strict=True)}

    def frame(self) -> pd.DataFrame:
        """A pandas table with the columns id, score and rank (1 is the closest), closest first."""
        import pandas as pd

        rows = [(module_id, value, rank) for rank, (module_id, value) in enumerate(self.top(len(self)), 1)]
        return pd.DataFrame(rows, columns=["id", "score", "rank"])
