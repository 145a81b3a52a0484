"""Answers for rows that have no label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from transfer.backbones.backbone import Backbone
from transfer.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """One answer: its text, and for rows with choices its position and the probability of each choice."""

    answer: str
    label: int | None = None
    probabilities: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a line of `transfer predict --json`."""
        row: dict[str, Any] = {"answer": self.answer}
        if self.label is not None:
            row |= {"label": self.label, "probabilities": [round(value, 6) for value in self.probabilities]}
        return row


def predict(
    rows: Iterable[Mapping[str, Any]], backbone: Backbone, delta: Any = None, fields: Sequence[str] = ()
) -> list[Prediction]:
    """Answer each row: the most probable of its `choices`, or generated text where it has none.

    Args:
        rows: `input` and, except for generation, `choices`.
        backbone: Left as it was found.
        delta: As for `evaluate`.
        fields: The task's fields, so that a long input is cut as it was in training.
    Raises:
        FingerprintError: the delta says that it was made for another backbone.
        DataError: a row has no input, or some rows have choices and others none.
    """
    from transfer.resolving import as_delta

    rows = list(rows)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("input"), str):
            raise DataError(
                f"row {number} has no input", found=", ".join(row), hint="a column named input, or --input-column"
            )
    with_choices = [bool(row.get("choices")) for row in rows]
    if any(with_choices) and not all(with_choices):
        raise DataError(f"row {with_choices.index(False) + 1} has no choices, others have", hint="--choices no,yes")
    resolved = as_delta(delta, backbone)
    if resolved is None:
        return _answers(rows, backbone, fields, any(with_choices))
    with backbone.use(resolved):
        return _answers(rows, backbone, fields, any(with_choices))


def _answers(
    rows: list[Mapping[str, Any]], backbone: Backbone, fields: Sequence[str], choose: bool
) -> list[Prediction]:
    if not rows:
        return []
    if not choose:
        return [Prediction(text) for text in backbone.generate(rows, fields)]
    bare = [{"input": row["input"], "choices": row["choices"]} for row in rows]
    shares = torch.softmax(backbone.choice_logits(bare, fields), dim=1)
    predictions = []
    for row, share in zip(bare, shares, strict=True):
        label = int(share.argmax())
        kept = tuple(float(value) for value in share[: len(row["choices"])])
        predictions.append(Prediction(str(row["choices"][label]), label, kept))
    return predictions
