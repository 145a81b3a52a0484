"""Few-shot draws and splits: which rows are taken, always the same for the same seed."""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Sequence

from transfer.tasks.table import Rows

# Files without splits are always divided with this seed, whatever the seed of the draw: runs that differ in their few
# examples must be tested on the same rows.
SPLIT_SEED = 42
# At most so many rows are taken off for a missing dev or test split: 2,000 put a 95% interval within +-2.2 points.
LARGEST_SPLIT = 2000


def draw(labels: Sequence[int], n: int, seed: int, salt: str = "") -> list[int]:
    """Indices of `n` rows, as even over the labels as there are rows for it.

    The labels take turns, in an order drawn once, so a draw of 16 is the beginning of the draw of 64; with more labels
    than `n` the rows are of `n` different labels.

    Args:
        labels: One label per row; a constant for a plain draw.
        n: Rows to draw, at least 1; all rows when there are fewer.
        seed: Same seed, same rows.
        salt: Keeps draws from different splits independent.

    >>> labels = [0, 0, 0, 0, 1, 1]
    >>> sorted(labels[i] for i in draw(labels, 4, seed=0))
    [0, 0, 1, 1]
    """
    generator = random.Random(f"{seed} {salt}")
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_label[label].append(index)
    turns = sorted(by_label)
    generator.shuffle(turns)
    for label in turns:
        generator.shuffle(by_label[label])
    drawn: list[int] = []
    depth = 0
    while len(drawn) < n and any(depth < len(by_label[label]) for label in turns):
        drawn += [by_label[label][depth] for label in turns if depth < len(by_label[label])]
        depth += 1
    return drawn[:n]


def divide(rows: Rows, shares: Sequence[float], seed: int = SPLIT_SEED, fields: Sequence[str] = ()) -> list[list[int]]:
    """Divide rows into parts with about the same mix of labels; each part's indices keep the order of the rows.

    Rows with the same input (but for case and punctuation) go into one part, so no part gives another's answers away.
    The place of a row in the file decides where it goes: how the labels are called or ordered does not, nor how an
    input is built, so what was trained on with other choices or another template is not tested on.

    Args:
        rows: At least as many different inputs as there are shares.
        shares: Share of each part, each above 0, sum 1. Every part gets at least one row.
        fields: The marks that every input has: an input with no other word is told by its symbols.

    Raises:
        ValueError: fewer different inputs than parts.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    wordless = _bare(" ".join(fields))
    for index, text in enumerate(rows.inputs):
        bare = _bare(text)
        groups[text if bare == wordless else bare].append(index)
    if len(groups) < len(shares):
        raise ValueError(f"{len(groups)} different inputs cannot be divided into {len(shares)} parts")
    by_label: dict[int, list[tuple[float, list[int]]]] = defaultdict(list)
    for members in groups.values():
        label = 0 if rows.labels is None else rows.labels[members[0]]
        by_label[label].append((_drawn(f"{seed} split {members[0]}"), members))
    placed: list[tuple[float, float, list[int]]] = []
    for group in by_label.values():
        group.sort()
        offset = _drawn(f"{seed} offset {group[0][0]}")
        placed += [((i + offset) / len(group), drawn, members) for i, (drawn, members) in enumerate(group)]
    return _cut([members for _, _, members in sorted(placed)], shares)


def _drawn(text: str) -> float:
    """A number in [0, 1) that looks random, the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _cut(groups: list[list[int]], shares: Sequence[float]) -> list[list[int]]:
    """Cut a list of groups where the running number of rows passes each share; no part stays empty."""
    total = sum(len(group) for group in groups)
    parts: list[list[int]] = [[] for _ in shares]
    part, taken, due = 0, 0, shares[0] * total
    for position, group in enumerate(groups):
        left = len(groups) - position
        parts_after = len(shares) - part - 1
        if parts[part] and part < len(shares) - 1 and (taken + len(group) / 2 > due or left <= parts_after):
            part += 1
            due += shares[part] * total
        parts[part] += group
        taken += len(group)
    return [sorted(indices) for indices in parts]


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()
