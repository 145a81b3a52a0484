"""What a backbone with a delta does on labelled examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.training.calibrating import calibrated_losses


@dataclass(frozen=True)
class Measured:
    """Per example: loss (n,), predicted choice (n,), right choice (n,), and the scores of the choices (n, choices)."""

    losses: np.ndarray
    predicted: np.ndarray
    labels: np.ndarray
    scores: np.ndarray = field(repr=False)

    @property
    def n_choices(self) -> int:
        """The most that a row has."""
        return int(self.scores.shape[1])

    @property
    def correct(self) -> np.ndarray:
        """1.0 where the prediction is right (n,)."""
        return (self.predicted == self.labels).astype(np.float64)

    @property
    def loss(self) -> float:
        """Mean loss."""
        return float(self.losses.mean())

    @cached_property
    def _calibrated(self) -> tuple[np.ndarray, float]:
        if self.n_choices < 2 or not len(self.losses) or not np.isfinite(self.losses).all():
            return self.losses, 1.0
        return calibrated_losses(self.scores, self.labels)

    @property
    def calibrated_losses(self) -> np.ndarray:
        """What choices on dev are made by (n,): see `calibrating`; the losses where there is nothing to choose."""
        return self._calibrated[0]

    @property
    def factor(self) -> float:
        """Of the scores, for probabilities that are as sure as they should be; at most 1."""
        return self._calibrated[1]

    @property
    def calibrated_loss(self) -> float:
        """Mean calibrated loss."""
        return float(self.calibrated_losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of right predictions; it says nothing where there is one candidate only."""
        return float(self.correct.mean())

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the F1 of each label that occurs."""
        from sklearn.metrics import f1_score

        return float(f1_score(self.labels, self.predicted, average="macro", zero_division=0))

    def metrics(self) -> dict[str, float]:
        """loss, accuracy and macro_f1, as a card holds them; the loss alone where there is nothing to choose."""
        if self.n_choices < 2:
            return {"loss": self.loss}
        return {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1}


def measure(backbone: Backbone, encoded: Sequence[Encoded]) -> Measured:
    """Losses and predictions on encoded examples, in one pass over them."""
    logits, losses = backbone.outputs(encoded)
    return Measured(
        losses=losses.numpy().astype(np.float64),
        predicted=logits.argmax(dim=1).numpy(),
        labels=np.array([row.label for row in encoded]),
        scores=logits.numpy(),
    )
