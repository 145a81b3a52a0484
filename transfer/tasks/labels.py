"""From what a label column says to the position of the right choice; refuses what is no choice among answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    table: Table, column: str, choices: Sequence[str], values: Sequence[Any] | None = None, first: int = 0
) -> list[int]:
    """Position of each row's label among `choices`, which are the same for all rows.

    Args:
        values: What the column says for each choice; None means its text or its position.
        first: The number of the first choice when labels are positions.

    Raises:
        DataError: a label is not among them; names the line and the choices.
    """
    names = table.label_names.get(column)
    if values is None and names is None:
        by_number = _all_numbers(table.need(column), choices)
        if by_number is not None:
            return by_number
    exact, folded = _lookup(choices, values)
    labels = []
    for row, value in enumerate(table.need(column)):
        label = _find(value, exact, folded)
        if label is None and names is not None and isinstance(value, int) and 0 <= value < len(names):
            label = _find(names[value], exact, folded)
        if label is None and values is None:
            number = _number(value)
            if number is not None and number == int(number) and 0 <= int(number) - first < len(choices):
                label = int(number) - first
        if label is None:
            raise _out_of_range(table, row, column, value, choices, first)
        labels.append(label)
    return labels


def row_labels(
    table: Table,
    column: str,
    choices: Sequence[Sequence[str]],
    values: Sequence[Any] | None = None,
    letters: Sequence[Sequence[str]] | None = None,
) -> list[int]:
    """Position of each row's label among that row's own choices.

    A label may be the position, the text of a choice, or a letter ("B"); with `values` or `letters` it is one of those.

    Raises:
        DataError: a label is none of these; names the line.
    """
    given = None if values is None else {_key(value): i for i, value in enumerate(values)}
    labels = []
    # Where choices are numbers a label may be meant as one of them or as a position: the same for the whole column.
    texts = all(_own_text(value, own) is not None for value, own in zip(table.need(column), choices, strict=True))
    for row, value in enumerate(table.need(column)):
        own = choices[row]
        label: int | None = None
        if letters is not None:
            names = [str(name) for name in letters[row]]
            label = names.index(str(value)) if str(value) in names else None
        elif given is not None:
            label = given.get(_key(value))
        else:
            label = _own_text(value, own) if texts else _own_place(value, own)
        if label is None or not 0 <= label < len(own):
            raise _out_of_range(table, row, column, value, own, 0)
        labels.append(label)
    return labels


def counts_from_one(tables: Mapping[str, Table], column: str, choices: Sequence[str]) -> bool:
    """Whether the labels are the numbers 1 to the number of choices, all over: they can mean nothing else then."""
    if any(_number(choice) is not None for choice in choices):
        return False
    numbers = {_number(value) for table in tables.values() for value in table.columns.get(column, ())}
    known = {number for number in numbers if number is not None}
    return len(known) == len(numbers) and bool(known) and min(known) == 1 and max(known) == len(choices)


def _all_numbers(values: Sequence[Any], choices: Sequence[str]) -> list[int] | None:
    """Positions by number, where all choices spell different numbers and every label is one of these; else None."""
    places = {_number(choice): place for place, choice in enumerate(choices)}
    numbers = [_number(value) for value in values]
    if None in places or len(places) < len(choices) or not set(numbers) <= set(places):
        return None
    return [places[number] for number in numbers]


def _own_text(value: Any, choices: Sequence[str]) -> int | None:
    """The one choice with that text."""
    if not isinstance(value, str):
        return None
    text = " ".join(value.split())
    own = [" ".join(choice.split()) for choice in choices]
    return own.index(text) if own.count(text) == 1 else None


def _own_place(value: Any, choices: Sequence[str]) -> int | None:
    """A choice's text where it is no number, its letter, or its position."""
    number = _number(value)
    if number is not None:
        return int(number) if number == int(number) else None
    found = _own_text(value, choices)
    text = value.strip().upper() if isinstance(value, str) else ""
    if found is None and len(text) == 1 and "A" <= text <= "Z":
        return ord(text) - ord("A")
    return found


def _lookup(choices: Sequence[str], values: Sequence[Any] | None) -> tuple[dict[Any, int], dict[str, int]]:
    exact: dict[Any, int] = {}
    for i, value in enumerate(choices if values is None else values):
        for one in value if isinstance(value, list | tuple) else (value,):
            exact[_key(one)] = i
    folded: dict[str, int] = {}
    for key, i in exact.items():
        if isinstance(key, str) and folded.setdefault(key.casefold(), i) != i:
            return exact, {}  # two choices differ in case only, so case tells them apart
    return exact, folded


def _find(value: Any, exact: Mapping[Any, int], folded: Mapping[str, int]) -> int | None:
    key = _key(value)
    found = exact.get(key)
    return folded.get(key.casefold()) if found is None and isinstance(key, str) else found


def _key(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)  # 0.6 is another number in a 32-bit column
    return " ".join(value.split()) if isinstance(value, str) else value


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
