"""Columns that were not told are guessed from their names when that is obvious, and what was guessed is said."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count, takewhile
from typing import Any

from transfer.errors import DataError
from transfer.tasks.columns import Columns
from transfer.tasks.labels import refuse_tags
from transfer.tasks.table import Table
from transfer.tasks.template import Template

# Columns that make up an input, in the order they are joined, with the name they get there. The names are those the
# shipped modules were trained with, so that a user's own file reads like their tasks.
_MARKS = {
    "target": "target",
    "topic": "topic",
    "title": "title",
    "headline": "title",
    "word": "word",
    "premise": "premise",
    "hypothesis": "hypothesis",
    "claim": "claim",
    "statement": "statement",
    "evidence": "evidence",
    "goal": "goal",
    "question": "question",
    "question1": "question 1",
    "question2": "question 2",
    "query": "query",
    "sentence1": "sentence 1",
    "sentence2": "sentence 2",
    "text1": "text 1",
    "text2": "text 2",
    "candidateanswer": "candidate answer",
    "prompt": "prompt",
    "context": "context",
    "passage": "context",
    "paragraph": "context",
    "article": "context",
    "dialogue": "dialogue",
    "text": "text",
    "sentence": "text",
    "review": "text",
    "content": "text",
    "comment": "text",
    "tweet": "text",
    "message": "text",
    "utterance": "text",
    "body": "text",
    "document": "text",
}
_LABELS = (
    "label", "labels", "gold label", "gold", "class", "answer", "answer key", "category", "sentiment", "intent",
    "emotion", "stars", "rating", "score", "y", "target", "topic",
)  # fmt: skip
_LABEL_TEXTS = ("label text", "label name", "text label")
_CHOICES = ("choices", "options", "endings", "candidates", "candidate answers")
_NUMBERED = re.compile(r"(choice|option|answer|ending|sol|solution|candidate)([0-9]{1,2}|[A-Z])$", re.IGNORECASE)
_NOT_TEXT = ("id", "idx", "index", "guid", "uid", "row", "split", "date", "time", "url", "user", "author", "name")


def complete(columns: Columns, table: Table) -> tuple[Columns, list[str]]:
    """Fill in what `columns` leaves open, from the names of the table's columns.

    Returns:
        The full mapping, and lines that tell what was guessed.

    Raises:
        DataError: nothing obvious is there; names the columns and how to tell.
    """
    plain = _plain(table)
    columns, notes = _with_choices(columns, table, plain)
    if columns.label is None and columns.output is None:
        if {"input", "output"} <= table.columns.keys() and "label" not in table.columns and not columns.choices:
            columns = replace(columns, output="output")
        else:
            label = _guess_label(table, plain, columns)
            columns = replace(columns, label=label)
            if label != "label":
                notes.append(f"label: column {label!r}")
    columns, said = _with_input(columns, table)
    return columns, notes + said


def complete_unlabelled(columns: Columns, table: Table) -> tuple[Columns, list[str]]:
    """As `complete`, for rows whose answers are yet to be found: a label column may be missing, and is no input.

    Raises:
        DataError: no column is obviously the input.
    """
    plain = _plain(table)
    columns, notes = _with_choices(columns, table, plain)
    label = _label_there(table, plain, columns)
    full, said = _with_input(replace(columns, label=label), table)
    if said and label in _candidates(table, columns)[0]:
        whole = _guess_input(table, columns)["template"]
        said.append(f"column {label!r} is taken for the label; if it is part of the input: --template '{whole}'")
    return full, notes + said


def _label_there(table: Table, plain: Mapping[str, str], columns: Columns) -> str | None:
    """The column that `complete` takes for the label; None where it holds none of the choices.

    None too where it is the only column there is and one of the names that inputs have.
    """
    try:
        label = _guess_label(table, plain, columns)
    except DataError:
        return None
    if _key(label) in _MARKS and not any(_candidates(table, replace(columns, label=label))):
        return None
    answers = {choice.casefold() for choice in columns.choices or ()}
    if answers and _key(label) in _MARKS and not answers & {str(v).strip().casefold() for v in table.columns[label]}:
        return None
    return label


def _with_choices(columns: Columns, table: Table, plain: Mapping[str, str]) -> tuple[Columns, list[str]]:
    if columns.choices or columns.choice_columns:
        return columns, []
    found = _guess_choices(table, plain)
    told = [f"choices: {', '.join(found)}"] if found and found != ("choices",) else []
    return replace(columns, choice_columns=found), told


def _with_input(columns: Columns, table: Table) -> tuple[Columns, list[str]]:
    if columns.template is not None or columns.inputs:
        return columns, []
    columns = replace(columns, **_guess_input(table, columns))
    if columns.template:
        return columns, [f"input: {columns.template}"]
    return columns, [] if columns.inputs == ("input",) else [f"input: column {columns.inputs[0]!r}"]


def _plain(table: Table) -> dict[str, str]:
    """The columns' names in plain words -> the names; of two alike the first counts."""
    return {_words(name): name for name in reversed(list(table.columns)) if name}


def template_of(columns: Columns) -> Template:
    """The template that builds the input."""
    if columns.template is not None:
        return Template.parse(columns.template)
    if len(columns.inputs) == 1:
        return Template((("", columns.inputs[0]),))
    return Template.join([(_mark(column), column) for column in columns.inputs])


def _words(name: str) -> str:
    """`gold_label`, `goldLabel` and `Gold-Label` are all "gold label"."""
    return re.sub(r"[\s_.-]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).strip().lower()


def _key(column: str) -> str:
    return _words(column).replace(" ", "")


def _mark(column: str) -> str:
    return _MARKS.get(_key(column), _words(column) or column)


def _guess_choices(table: Table, plain: Mapping[str, str]) -> tuple[str, ...]:
    for word in _CHOICES:
        if word in plain:
            return (plain[word],)
    for word in ("choices text", "options text"):  # a struct of lists, as in ARC
        if word in plain:
            return (plain[word],)
    numbered: dict[tuple[str, bool], dict[int, str]] = {}
    for name in table.columns:
        match = _NUMBERED.match(re.sub(r"[\s_-]", "", name))
        if match:
            counted = match[2].isdigit()
            place = int(match[2]) if counted else ord(match[2].upper())
            numbered.setdefault((match[1].lower(), counted), {})[place] = name
    groups = []
    for names in numbered.values():
        # One after the other: with `answerA` to `answerD` there, `answers` is not the choice S.
        places = list(takewhile(names.__contains__, count(min(names))))
        if len(places) >= 2:
            groups.append(tuple(names[place] for place in places))
    return groups[0] if len(groups) == 1 else ()


def _guess_label(table: Table, plain: Mapping[str, str], columns: Columns) -> str:
    if not columns.choices and not columns.choice_columns:
        for word in _LABEL_TEXTS:
            if word in plain:
                return plain[word]
    for word in _LABELS:
        if word in plain and plain[word] not in columns.inputs:
            return plain[word]
    if columns.choices and "output" in plain:
        return plain["output"]
    refuse_tags(table)
    raise DataError(
        f"{table.where}: no column is obviously the label",
        found=f"columns {', '.join(repr(name) for name in table.columns if name)}",
        hint="--label-column NAME, or --label-column and --choices to give the answers words",
    )


def _candidates(table: Table, columns: Columns) -> tuple[list[str], list[str]]:
    """Columns of text that could be the input: those with a known name, and the rest."""
    taken = {columns.label, columns.output, columns.letters, *columns.choice_columns}
    free = [name for name in table.columns if name and name not in taken and _holds_text(table.columns[name])]
    rest = [name for name in free if _words(name) not in _NOT_TEXT and not _words(name).endswith(" id")]
    return [name for name in free if _key(name) in _MARKS], rest


def _guess_input(table: Table, columns: Columns) -> dict[str, Any]:
    if "input" in table.columns:
        return {"inputs": ("input",)}
    _refuse_mixed(table, columns)
    known, rest = _candidates(table, columns)
    if known:
        order = list(_MARKS)
        chosen = sorted(known, key=lambda name: order.index(_key(name)))
        marks = [_mark(name) for name in chosen]
        if len(set(marks)) < len(marks):  # `text` and `body`, say: their own names keep them apart
            marks = [_words(name) for name in chosen]
        return {"template": " ".join(f"{mark}: {{{name}}}" for mark, name in zip(marks, chosen, strict=True))}
    if len(rest) == 1:
        return {"inputs": (rest[0],)}
    what = "several columns could be the input" if rest else "no column is obviously the input"
    names = rest or [name for name in table.columns if name]
    shown = " ".join(f"{_words(name)}: {{{name}}}" for name in (rest or ["text"])[:2])
    raise DataError(
        f"{table.where}: {what}",
        found=f"columns {', '.join(repr(name) for name in names)}",
        hint=f"--input-column NAME, or --template '{shown}'",
    )


def _refuse_mixed(table: Table, columns: Columns) -> None:
    """A column that is called like an input and holds texts and other things is not passed over: DataError."""
    for name in table.columns:
        if _key(name) in _MARKS and name not in (columns.label, columns.output, *columns.choice_columns):
            values = table.columns[name]
            odd = next((row for row, v in enumerate(values) if v is not None and not isinstance(v, str | list)), None)
            if odd is not None and any(isinstance(value, str) and not _is_number(value) for value in values):
                raise table.error(
                    odd,
                    f"{name!r} is a {type(values[odd]).__name__} where text should be",
                    hint="--input-column NAME takes another column",
                )


def _holds_text(values: Sequence[Any]) -> bool:
    seen = [value for value in values[:200] if value is not None and value != ""]
    return bool(seen) and all(isinstance(v, str | list) for v in seen) and not all(_is_number(v) for v in seen)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
