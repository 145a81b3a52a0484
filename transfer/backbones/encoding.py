"""Text to token ids, once: cut by fields to a length, and batched by length."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch


@dataclass(slots=True)
class Encoded:
    """One tokenised example.

    `choices` holds the token ids of every candidate answer (of the single output for generation), `label` the index of
    the right one, or -1 where it is not known. In a mixed batch `module` is the number of the module that answers, -1
    for the bare backbone (see `Backbone.serve`).
    """

    input: list[int]
    choices: list[list[int]] = field(default_factory=list)
    label: int = -1
    module: int | None = None

    @property
    def length(self) -> int:
        """Tokens that a forward pass has to read, for bucketing."""
        return len(self.input) + max((len(choice) for choice in self.choices), default=0)


def with_modules(batch: dict[str, Any], modules: Sequence[int | None]) -> dict[str, Any]:
    """A part of a batch, with the number of the module that each of its rows is read by, where that is told."""
    if not modules or any(number is None for number in modules):
        return batch
    return {**batch, "modules": torch.tensor(modules, dtype=torch.long)}


def label_of(row: Mapping[str, Any]) -> int:
    """The index of the right choice of an example, -1 where it is not known."""
    label = row.get("label")
    return -1 if label is None else int(label)


def field_spans(text: str, fields: Sequence[str]) -> list[tuple[int, int]]:
    """Where each field of a joined input begins and ends, in characters; the whole text where a mark is missing.

    A mark is `name:` between white space, as `transfer.tasks.fields` finds it.

    >>> field_spans("question: is it open context: It shut.", ("question", "context"))
    [(0, 20), (21, 38)]
    """
    starts: list[int] = []
    position = 0
    for name in fields:
        found = re.compile(rf"(?:^|(?<=\s)){re.escape(name)}:(?=\s|$)").search(text, position)
        if found is None:
            return [(0, len(text))]
        starts.append(found.start())
        position = found.end()
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
    budget = max(budget, 0)
    while sum(kept) > budget:
        top = max(kept)
        at_top = [index for index, length in enumerate(kept) if length == top]
        floor = max((length for length in kept if length < top), default=0)
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
    tokenizer: Any,
    texts: Sequence[str],
    max_length: int | Sequence[int],
    fields: Sequence[str] = (),
    special: bool = True,
) -> list[list[int]]:
    """Token ids of each text, at most `max_length` of them (one number for all, or one for each text).

    A text that is too long loses the tail of its longest field, so that a short question beside a long passage stays
    whole; without fields (or with a tokenizer that cannot tell offsets) it loses its own tail. With `special`, a text
    without any token (an empty one, where the tokenizer adds nothing) is read as one end token: a model has to be
    given something.
    """
    if not texts:
        return []
    limits = [max_length] * len(texts) if isinstance(max_length, int) else list(max_length)
    plain = tokenizer(list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    result = [list(ids) for ids in plain]
    long = [index for index, ids in enumerate(result) if len(ids) > limits[index]]
    for index, ids in zip(long, _cut(tokenizer, texts, long, limits, fields, special), strict=True):
        result[index] = ids
    if special:
        end = tokenizer.eos_token_id
        result = [ids or [tokenizer.pad_token_id if end is None else end] for ids in result]
    return result


def _cut(
    tokenizer: Any, texts: Sequence[str], which: list[int], limits: list[int], fields: Sequence[str], special: bool
) -> Iterator[list[int]]:
    """Token ids of the texts at `which`, cut to their limits."""
    if which and not tokenizer.is_fast:
        for index in which:
            ids = tokenizer(texts[index], add_special_tokens=special, truncation=True, max_length=limits[index])
            yield list(ids["input_ids"])
    elif which:
        detailed = tokenizer(
            [texts[index] for index in which],
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            verbose=False,
        )
        for row, index in enumerate(which):
            ends = np.array([end for _, end in detailed["offset_mapping"][row]])
            spans = field_spans(texts[index], fields)
            # The field of each token: the first that ends no earlier than the token does.
            owner = np.searchsorted([end for _, end in spans[:-1]], ends)
            owner[np.array(detailed["special_tokens_mask"][row], dtype=bool)] = -1
            lengths = [int((owner == number).sum()) for number in range(len(spans))]
            kept = owner == -1
            for number, n_kept in enumerate(keep_within(lengths, limits[index] - int(kept.sum()))):
                kept[np.flatnonzero(owner == number)[:n_kept]] = True
            yield np.array(detailed["input_ids"][row])[kept].tolist()


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
