"""From what a label column says to the position of the right choice; refuses what is no choice among answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transfer.errors import DataError
from transfer.tasks.table import Table

# More different numbers than this are a scale, not a set of answers.
_MOST_NUMBERS = 20
_TAGS = {"ner_tags", "pos_tags", "chunk_tags", "token_labels"}


def refuse_kind(kind: str, name: str) -> DataError:
    """The error for kinds of task that have no answer to choose: regression, multi-label, token-level."""
    remedies = {
        "regression": "cut the scale into named ranges first, such as low, middle and high",
        "multi-label": "make one yes/no task of each label: the label's name goes into the input",
        "token-level": "only whole inputs are classified; ask about one token at a time, in the input",
    }
    return DataError(
        f"{name} is a {kind} task, which transfer does not take",
        found="kinds that it takes: classification, multiple_choice, generation",
        hint=remedies[kind],
    )


def refuse_tags(table: Table) -> None:
    """Refuse a table whose columns say that each token has a label of its own.

    Raises:
        DataError: it has such a column.
    """
    tags = sorted(_TAGS & set(table.columns))
    if tags:
        raise refuse_kind("token-level", f"{table.where} has a column {tags[0]!r}, so this")


def check_labels(table: Table, column: str, named: bool) -> None:
    """Refuse a label column that is no choice of one answer, or lacks values.

    Args:
        named: Whether the answers' words are known from elsewhere; numbers alone are refused otherwise.

    Raises:
        DataError: regression, multi-label or token-level labels; a row without a label; numbers without words.
    """
    values = table.need(column)
    for row, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise table.error(row, f"no {column!r}", hint="every row needs a label; leave rows without one out")
        if isinstance(value, list | tuple | dict):
            kind = "token-level" if {"tokens", "words", *_TAGS} & set(table.columns) else "multi-label"
            raise refuse_kind(kind, f"{table.place(row)}: {column!r} is a list, so this")
    if named:
        return
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or all(isinstance(value, bool) for value in values):
        return
    fraction = next((row for row, number in enumerate(known) if number != int(number)), None)
    if fraction is not None:
        raise refuse_kind("regression", f"{table.place(fraction)}: {column!r} is {values[fraction]}, so this")
    different = sorted({int(number) for number in known})
    if len(different) > _MOST_NUMBERS:
        raise refuse_kind("regression", f"{table.where}: {column!r} holds {len(different)} different numbers, so this")
    n = different[-1] + 1 if different[0] == 0 else len(different)
    example = "no,yes" if n == 2 else ",".join("ABCDEFGHIJKLMNOPQRSTU"[:n]) + " with words in place of the letters"
    raise DataError(
        f"{table.where}: the labels in {column!r} are numbers without words",
        found=", ".join(str(number) for number in different),
        hint=f"say what they mean, in their order: --choices {example}",
    )


def fixed_labels(
    tables: Mapping[str, Table], column: str, choices: Sequence[str], values: Sequence[Any] | None = None
) -> tuple[dict[str, list[int]], int]:
    """Position of each row's label among `choices`, which are the same for all rows.

    Whether a number in the column is a choice or a position is decided once, over all splits.

    Args:
        values: What the column says for each choice; None means its text or its position.

    Returns:
        split -> one label per row; and the number that the column gives the first choice: 1 or, as elsewhere, 0.

    Raises:
        DataError: a label is not among the choices, or only some names behind a column's integers are.
    """
    exact, folded = _lookup(choices, values)
    positions = values is None and _are_positions(tables, column, choices, exact, folded)
    first = 0
    if positions and not any(column in table.label_names for table in tables.values()):
        first = _first_number((value, len(choices)) for table in tables.values() for value in table.need(column))

    def place(table: Table, row: int, value: Any, choices: Sequence[str]) -> int | None:
        label = _position(value, first) if positions else _find(value, exact, folded) if values else None
        return _find(_named(table, column, value), exact, folded) if label is None else label

    return _each_row(tables, column, {split: [choices] * len(table) for split, table in tables.items()}, place, first)


def row_labels(
    tables: Mapping[str, Table],
    column: str,
    choices: Mapping[str, Sequence[Sequence[str]]],
    values: Sequence[Any] | None = None,
    letters: str | None = None,
) -> tuple[dict[str, list[int]], int]:
    """Position of each row's label among that row's own choices.

    A label may be the position, the text of a choice, or a letter ("B"); with `values` or `letters` it is one of those.

    Args:
        choices: split -> the choices of each row.
        letters: Column with the names of a row's choices.

    Returns:
        As `fixed_labels`.

    Raises:
        DataError: a label is none of these; names the line.
    """
    given = None if values is None else {_key(value): i for i, value in enumerate(values)}
    said = [pair for split, table in tables.items() for pair in zip(table.need(column), choices[split], strict=True)]
    # Where choices are numbers a label may be meant as one of them or as a position: the same for the whole column.
    texts = all(_own_text(value, own) is not None for value, own in said)
    plain = given is None and letters is None and not texts
    first = _first_number((value, len(own)) for value, own in said) if plain else 0

    def place(table: Table, row: int, value: Any, own: Sequence[str]) -> int | None:
        if letters is not None:
            names = [str(name) for name in table.need(letters)[row]]
            return names.index(str(value)) if str(value) in names else None
        if given is not None:
            return given.get(_key(value))
        return _own_text(value, own) if texts else _own_place(value, own, first)

    return _each_row(tables, column, choices, place, first)


def _each_row(
    tables: Mapping[str, Table],
    column: str,
    choices: Mapping[str, Sequence[Sequence[str]]],
    place: Callable[[Table, int, Any, Sequence[str]], int | None],
    first: int,
) -> tuple[dict[str, list[int]], int]:
    """split -> what `place` says of each row, held against the row's choices; and `first`."""
    labels: dict[str, list[int]] = {}
    for split, table in tables.items():
        labels[split] = []
        for row, (value, own) in enumerate(zip(table.need(column), choices[split], strict=True)):
            label = place(table, row, value, own)
            if label is None or not 0 <= label < len(own):
                raise _out_of_range(table, row, column, value, own, first)
            labels[split].append(label)
    return labels, first


def _are_positions(
    tables: Mapping[str, Table],
    column: str,
    choices: Sequence[str],
    exact: Mapping[Any, int],
    folded: Mapping[str, int],
) -> bool:
    """Whether the numbers in a column are positions, not choices.

    Raises:
        DataError: some of the names behind them are choices, at other positions, and some are not.
    """
    if not any(column in table.label_names for table in tables.values()):
        numbers = {value for table in tables.values() for value in table.need(column) if _number(value) is not None}
        known = sum(_find(value, exact, folded) is not None for value in numbers)
        # Where neither reading fits all of them, the likelier one is kept: its error names the value that is wrong.
        return known < len(numbers) and known <= sum(_position(value) in range(len(choices)) for value in numbers)
    used = {(_named(table, column, value), value) for table in tables.values() for value in table.need(column)}
    places = {(name, value): _find(name, exact, folded) for name, value in used}
    unknown = sorted({str(name) for (name, _), place in places.items() if place is None})
    # Where every name that is a choice stands at that choice's position, the others are new words for the names there.
    if unknown and any(place not in (None, value) for (_, value), place in places.items()):
        raise DataError(
            f"{next(iter(tables.values())).where}: some names of the labels in {column!r} are choices, others are not",
            found=f"no choice: {', '.join(repr(name) for name in unknown)}; choices: {', '.join(map(repr, choices))}",
            hint="--choices with the name of every label, in any order; or with new words for all, in the names' order",
        )
    return bool(unknown)


def _named(table: Table, column: str, value: Any) -> Any:
    """The name behind an integer, where the format knows it; else the value."""
    names = table.label_names.get(column, ())
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _first_number(labels: Iterable[tuple[Any, int]]) -> int:
    """1 where labels, given with the number of choices, are the numbers from 1 up to it; else 0.

    They can mean nothing else then: the last choice would be out of range if they counted from 0.
    """
    numbers = [(_number(value), n) for value, n in labels]
    known = [(number, n) for number, n in numbers if number is not None]
    if len(known) < len(numbers) or not all(1 <= number <= n for number, n in known):
        return 0
    return int(min(number for number, _ in known) == 1 and any(number == n for number, n in known))


def _position(value: Any, first: int = 0) -> int | None:
    """The position that a number is; -1 for one that can be none."""
    number = _number(value)
    if number is None:
        return None
    return int(number) - first if number == int(number) else -1


def _own_text(value: Any, choices: Sequence[str]) -> int | None:
    """The one choice with that text."""
    if not isinstance(value, str):
        return None
    text = plain_text(value)
    own = [plain_text(choice) for choice in choices]
    return own.index(text) if own.count(text) == 1 else None


def _own_place(value: Any, choices: Sequence[str], first: int) -> int | None:
    """A choice's text where it is no number, its letter, or its position."""
    position = _position(value, first)
    if position is not None:
        return position
    found = _own_text(value, choices)
    text = value.strip().upper() if isinstance(value, str) else ""
    if found is None and len(text) == 1 and "A" <= text <= "Z":
        return ord(text) - ord("A")
    return found


def _lookup(choices: Sequence[str], values: Sequence[Any] | None) -> tuple[dict[Any, int], dict[str, int]]:
    """What a column may say -> position: as it stands (with the number that a choice spells), and folded."""
    exact: dict[Any, int] = {}
    for i, value in enumerate(choices if values is None else values):
        for one in value if isinstance(value, list | tuple) else (value,):
            exact[_key(one)] = i
    folded: dict[str, int] = {}
    for key, i in exact.items():
        if isinstance(key, str) and folded.setdefault(_fold(key), i) != i:
            folded = {}  # two choices differ in case only, so case tells them apart
            break
    if values is None:
        numbers = [_number(choice) for choice in choices]
        exact |= {number: i for i, number in enumerate(numbers) if number is not None and numbers.count(number) == 1}
    return exact, folded


def _find(value: Any, exact: Mapping[Any, int], folded: Mapping[str, int]) -> int | None:
    key = _key(value)
    found = exact.get(key)
    if found is None and isinstance(key, str | bool):
        found = folded.get(_fold(str(key)))
    return exact.get(_number(key)) if found is None else found


def _fold(text: str) -> str:
    """Case aside, and with `_` for a space as in many names of labels."""
    return text.casefold().replace("_", " ")


def _key(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)  # 0.6 is another number in a 32-bit column
    return plain_text(value) if isinstance(value, str) else value


def plain_text(text: str) -> str:
    """Without spaces at the ends and doubled ones, and each character in one way: `é` may be one code point or two."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _number(value: Any) -> float | None:
    """The finite number that a value is or spells, else None."""
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 2**53 else None


def _out_of_range(table: Table, row: int, column: str, value: Any, choices: Sequence[str], first: int) -> DataError:
    shown = ", ".join(f"{i + first} {choice!r}" for i, choice in enumerate(choices[:6]))
    return table.error(
        row,
        f"label {value!r} in {column!r} is none of the {len(choices)} choices",
        found=shown + (", ..." if len(choices) > 6 else ""),
        hint=f"a label is a choice's text, or its position from {first} to {len(choices) - 1 + first}",
    )
