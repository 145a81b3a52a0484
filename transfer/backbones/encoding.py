"""Text to token ids, once: cut by fields to a length, and batched by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch


@dataclass(slots=True)
class Encoded:
    """One tokenised example.

    `choices` holds the token ids of every candidate answer (of the single output for generation), `label` the index of
    the right one, or -1 where it is not known.
    """

    input: list[int]
    choices: list[list[int]] = field(default_factory=list)
    label: int = -1

    @property
    def length(self) -> int:
        """Tokens that a forward pass has to read, for bucketing."""
        return len(self.input) + max((len(choice) for choice in self.choices), default=0)


def field_spans(text: str, fields: Sequence[str]) -> list[tuple[int, int]]:
    """Where each field of a joined input begins and ends, in characters; the whole text where a mark is missing.

    >>> field_spans("question: is it open context: It shut.", ("question", "context"))
    [(0, 20), (21, 38)]
    """
    starts, position = [], 0
    for name in fields:
        mark = f"{name}:"
        at = text.find(mark if position == 0 else f" {mark}", position)
        if at < 0:
            return [(0, len(text))]
        starts.append(at if position == 0 else at + 1)
        position = starts[-1] + len(mark)
    if not starts or starts[0] != 0:
        return [(0, len(text))]
    ends = [start - 1 for start in starts[1:]] + [len(text)]
    return list(zip(starts, ends, strict=True))


def keep_within(lengths: Sequence[int], budget: int) -> list[int]:
    """How many tokens of each field stay so that all fit: the longest is cut first, then level with the next.

    >>> keep_within([5, 100], 30)
    [5, 25]
    >>> keep_within([50, 100], 30)
    [15, 15]
    """
    kept = list(lengths)
    while sum(kept) > budget:
        top = max(kept)
        others = [length for length in kept if length < top]
        at_top = [index for index, length in enumerate(kept) if length == top]
        floor = max(others, default=0)
        excess = sum(kept) - budget
        if (top - floor) * len(at_top) >= excess:
            cut, extra = divmod(excess, len(at_top))
            for place, index in enumerate(at_top):
                kept[index] -= cut + (place >= len(at_top) - extra)
        else:
            for index in at_top:
                kept[index] = floor
    return kept


def encode_texts(
    tokenizer: Any, texts: Sequence[str], max_length: int, fields: Sequence[str] = (), special: bool = True
) -> list[list[int]]:
    """Token ids of each text, at most `max_length` of them.

    A text that is too long loses the tail of its longest field, so that a short question beside a long passage stays
    whole; without fields (or with a tokenizer that cannot tell offsets) it loses its own tail.
    """
    if not texts:
        return []
    plain = tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    long = [index for index, ids in enumerate(plain) if len(ids) > max_length]
    if not long:
        return [list(ids) for ids in plain]
    result = [list(ids) for ids in plain]
    if len(fields) < 2 or not tokenizer.is_fast:
        cut = tokenizer(
            [texts[index] for index in long],
            add_special_tokens=special,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
        )["input_ids"]
        for index, ids in zip(long, cut, strict=True):
            result[index] = list(ids)
        return result
    detailed = tokenizer(
        [texts[index] for index in long],
        add_special_tokens=special,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    for row, index in enumerate(long):
        result[index] = _cut_fields(
            detailed["input_ids"][row],
            detailed["offset_mapping"][row],
            detailed["special_tokens_mask"][row],
            field_spans(texts[index], fields),
            max_length,
        )
    return result


def _cut_fields(
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[int],
    spans: Sequence[tuple[int, int]],
    max_length: int,
) -> list[int]:
    ends = np.array([end for _, end in spans])
    owner = [-1 if mark else int(np.searchsorted(ends, end)) for mark, (_, end) in zip(special, offsets, strict=True)]
    owner = [min(number, len(spans) - 1) for number in owner]
    lengths = [owner.count(number) for number in range(len(spans))]
    left = keep_within(lengths, max_length - owner.count(-1))
    result = []
    for token, number in zip(ids, owner, strict=True):
        if number >= 0:
            if left[number] <= 0:
                continue
            left[number] -= 1
        result.append(token)
    return result


T = TypeVar("T")


def buckets(lengths: Sequence[int], size: int) -> Iterator[np.ndarray]:
    """Index arrays of at most `size`, longest first, so that a batch holds about equal lengths.

    Longest first: a batch that does not fit into memory fails at once, and not after an hour.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (rows, longest) and their mask, 1 for a token and 0 for padding."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, where] = torch.tensor(list(row), dtype=torch.long)
        mask[index, where] = 1
    return ids, mask
