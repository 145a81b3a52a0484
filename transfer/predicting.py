"""Answers for rows that have no label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from transfer.backbones.backbone import Backbone
from transfer.errors import ConfigError, DataError


@dataclass(frozen=True)
class Prediction:
    """One answer: its text, and for rows with choices its position and the probability of each choice.

    Few examples make a delta surer than it should be. Where `finetune` had dev examples, it left on the card a factor
    of the scores that makes the probabilities as sure as dev says; the answers are the same.
    """

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
    rows: Iterable[Mapping[str, Any]],
    backbone: Backbone,
    delta: Any = None,
    fields: Sequence[str] = (),
    deltas: Sequence[Any] | None = None,
) -> list[Prediction]:
    """Answer each row: the most probable of its `choices`, or generated text where it has none.

    Args:
        rows: `input` and, except for generation, `choices`.
        backbone: Left as it was found.
        delta: As for `evaluate`.
        fields: The task's fields, so that a long input is cut as it was in training.
        deltas: In place of `delta` one for each row, None for the bare backbone; such rows share batches.
    Raises:
        FingerprintError: the delta says that it was made for another backbone.
        DataError: a row has no input, choices that are no texts, or none where others have some; or its scores are not
            finite.
        ConfigError: `deltas` are not as many as the rows, or come beside a `delta`.
        DeltaError: a delta's method cannot be mixed with others in a batch.
    """
    from transfer.resolving import as_delta

    rows = list(rows)
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("input"), str):
            raise DataError(
                f"row {number} has no input", found=", ".join(row), hint="a column named input, or --input-column"
            )
        choices = row.get("choices")
        if choices is not None and not _are_texts(choices):
            raise DataError(
                f"the choices of row {number} are no list of texts",
                found=repr(choices)[:80],
                hint='"choices": ["no", "yes"]',
            )
    with_choices = [bool(row.get("choices")) for row in rows]
    if any(with_choices) and not all(with_choices):
        raise DataError(f"row {with_choices.index(False) + 1} has no choices, others have", hint="--choices no,yes")
    if deltas is not None:
        if delta is not None or len(deltas) != len(rows):
            raise ConfigError(
                "deltas= takes one for each row, in place of delta=", found=f"{len(deltas)} for {len(rows)} rows"
            )
        return _mixed(rows, backbone, fields, any(with_choices), deltas)
    resolved = as_delta(delta, backbone)
    if resolved is None:
        return _answers(rows, backbone, fields, any(with_choices))
    with backbone.use(resolved):
        return _answers(rows, backbone, fields, any(with_choices), factors=[factor_of(delta)] * len(rows))


def _are_texts(choices: Any) -> bool:
    return isinstance(choices, list | tuple) and all(isinstance(choice, str) for choice in choices)


def factor_of(delta: Any) -> float:
    """Of the scores, from the card that is at hand; 1 where none is, or where it says nothing of use."""
    card = getattr(delta, "card", None) or getattr(getattr(delta, "module", None), "card", None)
    dev = card.metrics.get("dev") if card is not None else None
    found = dev.get("factor") if isinstance(dev, Mapping) else None
    return found if isinstance(found, float) and 0 < found <= 1 else 1.0


def _mixed(
    rows: list[Mapping[str, Any]], backbone: Backbone, fields: Sequence[str], choose: bool, deltas: Sequence[Any]
) -> list[Prediction]:
    """Answers of rows that each have a delta of their own; equal objects are one delta, and so are equal ids."""

    def key_of(delta: Any) -> Any:
        return getattr(delta, "id", None) or id(delta)  # a zoo makes a new object each time it is asked

    unique = {key_of(delta): delta for delta in deltas if delta is not None}
    order = {key: number for number, key in enumerate(unique)}
    with backbone.serve(list(unique.values())):
        numbers = [order.get(key_of(delta), -1) for delta in deltas]
        return _answers(rows, backbone, fields, choose, numbers, [factor_of(delta) for delta in deltas])


def _answers(
    rows: list[Mapping[str, Any]],
    backbone: Backbone,
    fields: Sequence[str],
    choose: bool,
    modules: Sequence[int] | None = None,
    factors: Sequence[float] | None = None,
) -> list[Prediction]:
    if not rows:
        return []
    if not choose:
        return [Prediction(text) for text in backbone.generate(rows, fields, modules=modules)]
    bare = [{"input": row["input"], "choices": row["choices"]} for row in rows]
    scores = backbone.outputs(bare, fields, modules)[0]
    shares = torch.softmax(scores if factors is None else scores * torch.tensor(factors)[:, None], dim=1)
    broken = (~torch.isfinite(shares).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise DataError(
            f"row {broken[0] + 1} has no answer: its scores are no finite numbers",
            found=f"{len(broken)} such rows of {len(rows)}",
            hint="a delta that was trained to finite numbers, or --precision fp32",
        )
    predictions = []
    for row, share in zip(bare, shares, strict=True):
        label = int(share.argmax())
        kept = tuple(float(value) for value in share[: len(row["choices"])])
        predictions.append(Prediction(str(row["choices"][label]), label, kept))
    return predictions
