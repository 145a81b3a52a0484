"""Settings of one tune."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer.errors import ConfigError

if TYPE_CHECKING:
    from transfer.deltas.method import DeltaMethod


SEEDS = 2**32  # that a generator can be seeded with


def check_seed(seed: int) -> None:
    """Refuse a seed that some generator does not take: ConfigError."""
    if not 0 <= seed < SEEDS:
        raise ConfigError(f"seed must be at least 0 and below 2**32, got {seed}")


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How long, how fast and in what order.

    The optimiser is AdamW with linear decay to 0 and the gradient clipped at norm 1.
    """

    steps: int = 60
    learning_rate: float | None = None  # None is the method's own
    batch_size: int = 16
    seed: int = 0  # of data order and dropout; the start of a delta has a seed of its own
    eval_every: int | None = None  # steps between measurements on dev; None measures at the start and the end only
    patience: int | None = None  # measurements without a better dev loss before stopping; None never stops
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        check_seed(self.seed)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")

    def rate(self, method: DeltaMethod) -> float:
        """The learning rate of a tune: the one given, or the method's own."""
        return method.learning_rate if self.learning_rate is None else self.learning_rate
