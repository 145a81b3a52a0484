"""Settings of one tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer.errors import ConfigError

if TYPE_CHECKING:
    from transfer.deltas.method import DeltaMethod

MANY_PASSES = 8  # over the training examples; beyond them the default learning rate is lower


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How long, how fast and in what order.

    The optimiser is AdamW with linear decay to 0 and the gradient clipped at norm 1.
    """

    steps: int = 60
    learning_rate: float | None = None  # None: `rate` chooses
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
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay must be at least 0, got {self.weight_decay}")

    def rate(self, method: DeltaMethod, n_train: int) -> float:
        """The learning rate of a tune on `n_train` examples.

        Where none is given: the method's own, times its `repeated` if examples are seen more than eight times. With 64
        examples of development targets dev always chose a third of it for 60 steps (15 passes) of LoRA, adapter and
        prefix; for 20 steps it chose the method's own where it made a difference.
        """
        if self.learning_rate is not None:
            return self.learning_rate
        passes = self.steps * self.batch_size / max(n_train, 1)
        return float(method.learning_rate * (method.repeated if passes > MANY_PASSES else 1))
