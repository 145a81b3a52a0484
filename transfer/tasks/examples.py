"""From tables to rows of examples: the input, the choices, the label, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transfer.errors import DataError
from transfer.tasks.columns import Columns, choices_problem
from transfer.tasks.guessing import complete, template_of
from transfer.tasks.kinds import Kind
from transfer.tasks.labels import check_labels, fixed_labels, plain_text, row_labels
from transfer.tasks.table import Rows, Table

# Texts that come back so often are answers to choose from, not texts to write.
_MOST_ANSWERS = 100
_LEAST_REPEATS = 3


@dataclass(frozen=True)
class Examples:
    """The rows of each split, what kind of task they make, lines about how they were read, and the names in inputs."""

    kind: Kind
    rows: Mapping[str, Rows]
    notes: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    template: str = ""  # what builds an input from columns


def build(tables: Mapping[str, Table], columns: Columns, kind: Kind | None = None) -> Examples:
    """Make examples of tables.

    Args:
        tables: split -> table; a single file is one table under "all".
        columns: The mapping; what it leaves open is guessed from the first table.
        kind: What the task is known to be; None means whatever the columns show.

    Raises:
        DataError: a column is missing, a row is incomplete, or a label is none of the choices.
    """
    notes = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
    columns, guessed = complete(columns, next(iter(tables.values())))
    tables, told = _without_unlabelled(tables, columns)
    notes += guessed + told
    if columns.label is not None:
        for table in tables.values():
            worded = columns.choices or columns.choice_columns or columns.label in table.label_names
            check_labels(table, columns.label, named=bool(worded))
    if columns.lenient and columns.choice_columns:
        tables, told = _without_blank_choices(tables, columns)
        notes += told
    inputs: dict[str, list[str]] = {}
    for split, table in list(tables.items()):
        texts = input_texts(table, columns)
        blank = [row for row, text in enumerate(texts) if text is None]
        if blank and not columns.lenient:
            raise table.error(blank[0], "the input is blank", hint="every row needs an input; leave blank rows out")
        if blank:
            notes.append(f"{split}: {len(blank)} rows with a blank input left out")
            tables[split] = table.take([row for row, text in enumerate(texts) if text is not None])
        inputs[split] = [text for text in texts if text is not None]
    if columns.output is not None:
        made = _generation(tables, inputs, columns, notes)
    elif columns.choices is None and columns.choice_columns:
        made = _own_choices(tables, inputs, columns, kind, notes)
    else:
        made = _fixed_choices(tables, inputs, columns, notes)
    template = template_of(columns)
    return replace(made, marks=template.marks, template=str(template))


def looks_like_answers(tables: Mapping[str, Table], column: str) -> bool:
    """Whether a column of texts repeats a small set of answers, as CrossFit's classification tasks do."""
    texts = [text for table in tables.values() for text in table.columns.get(column, ())]
    different = len(set(texts))
    return 2 <= different <= _MOST_ANSWERS and len(texts) >= _LEAST_REPEATS * different


def input_texts(table: Table, columns: Columns) -> list[str | None]:
    """The input of each row; None where it is blank.

    Raises:
        DataError: a column is missing, or an input that is taken as it stands is no text.
    """
    if columns.template is None and len(columns.inputs) == 1 and columns.limit is None:
        texts: list[str | None] = []
        for row, value in enumerate(table.need(columns.inputs[0])):
            if value is not None and not isinstance(value, str):
                raise table.error(
                    row,
                    f"{columns.inputs[0]!r} is a {type(value).__name__} where text should be",
                    hint="name another column with --input-column",
                )
            texts.append(value if value and value.strip() else None)
        return texts
    return template_of(columns).fill(table, columns.rewrite, columns.limit)


def _generation(
    tables: Mapping[str, Table], inputs: Mapping[str, list[str]], columns: Columns, notes: list[str]
) -> Examples:
    assert columns.output is not None
    rows = {}
    for split, table in tables.items():
        outputs: list[str] = []
        for row, value in enumerate(table.need(columns.output)):
            if not isinstance(value, str) or not value.strip():
                raise table.error(row, f"no text in {columns.output!r}", hint="every row needs an output")
            outputs.append(value)
        rows[split] = Rows(inputs[split], outputs=outputs)
    if looks_like_answers(tables, columns.output):
        notes.append(f"{columns.output!r} repeats a few texts; for classification: --label-column {columns.output}")
    return Examples("generation", rows, tuple(notes))


def _own_choices(
    tables: Mapping[str, Table], inputs: Mapping[str, list[str]], columns: Columns, kind: Kind | None, notes: list[str]
) -> Examples:
    """Each row brings its choices; if they are all the same, it is a classification task after all."""
    label = _label(columns)
    choices = {split: choice_lists(table, columns) for split, table in tables.items()}
    labels, counted_from = row_labels(tables, label, choices, columns.values, columns.letters)
    if counted_from:
        notes.append("labels count from 1, over each row's choices")
    rows = {split: Rows(inputs[split], choices[split], labels[split]) for split in tables}
    first = next(iter(rows.values())).choices
    assert first is not None
    odd = _first_other(rows, first[0])
    if kind == "classification" and odd is not None:
        split, row = odd
        raise tables[split].error(
            row,
            "other choices than the first row's, in a classification task",
            found=", ".join(repr(choice) for choice in first[0][:6]),
            hint='the same choices in the same order on every line, or "kind": "multiple_choice" in task.json',
        )
    shown: Kind = "classification" if odd is None else "multiple_choice"
    return Examples(kind if kind in ("classification", "multiple_choice") else shown, rows, tuple(notes))


def _fixed_choices(
    tables: Mapping[str, Table], inputs: Mapping[str, list[str]], columns: Columns, notes: list[str]
) -> Examples:
    label = _label(columns)
    choices, values = columns.choices, columns.values
    if choices is None:
        choices, values = _choices_in_data(tables, label)
        notes.append(f"choices, read from {label!r}: {_shown(choices)}")
        folded = [choice.casefold() for choice in choices]
        if alike := [choice for choice in choices if folded.count(choice.casefold()) > 1]:
            notes.append(f"choices that differ in capitals alone are classes of their own: {_shown(alike)}")
    labels, counted_from = fixed_labels(tables, label, choices, values)
    if counted_from:
        notes.append(f"labels count from 1: 1 is {choices[0]!r}, {len(choices)} is {choices[-1]!r}")
    elif columns.choices is not None and (least := _least_number(tables, label, labels)):
        notes.append(f"labels count from 0, and none is 0: {least} is {choices[least]!r}")
    same = list(choices)
    rows = {split: Rows(inputs[split], [same] * len(table), labels[split]) for split, table in tables.items()}
    return Examples("classification", rows, tuple(notes))


def _least_number(tables: Mapping[str, Table], label: str, labels: Mapping[str, list[int]]) -> int:
    """The smallest label where the column's numbers are the positions themselves; 0 where they are not."""
    said = [value for table in tables.values() for value in table.need(label)]
    places = [place for split in tables for place in labels[split]]
    same = all(str(value).strip() == str(place) for value, place in zip(said, places, strict=True))
    return min(places) if same and places else 0


def _label(columns: Columns) -> str:
    assert columns.label is not None, "complete() leaves no mapping without a label or an output"
    return columns.label


def _choices_in_data(tables: Mapping[str, Table], label: str) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The names that the format keeps for a label column, or else its texts, sorted; and what it says for each."""
    first = next(iter(tables.values()))
    if label in first.label_names:
        names = tuple(first.label_names[label])
        return tuple(name.replace("_", " ") for name in names), names
    values = {value for table in tables.values() for value in table.need(label)}
    if all(isinstance(value, bool) for value in values):
        return ("false", "true"), (False, True)
    said: dict[str, list[Any]] = {}
    for value in values:
        said.setdefault(plain_text(str(value)), []).append(value)
    if len(said) < 2:
        raise DataError(
            f"{first.where}: every label in {label!r} is {next(iter(said))!r}",
            hint="--choices with all answers there can be, or another --label-column",
        )
    return tuple(sorted(said)), tuple(said[text] for text in sorted(said))


def choice_lists(table: Table, columns: Columns) -> list[list[str]]:
    """Each row's own choices.

    Raises:
        DataError: a row has none, one, a blank one, or the same twice.
    """
    lists = _raw_choices(table, columns)
    for row, choices in enumerate(lists):
        if not _are_texts(choices):
            raise table.error(
                row,
                "no list of choices" if choices in (None, []) else "choices are not a list of texts",
                hint='"choices": ["no", "yes"], or --choices no,yes when they are the same on every row',
            )
        problem = choices_problem(choices)
        # Published data holds a few rows with a distractor twice; the label still says which is right.
        if problem and not (columns.lenient and "twice" in problem):
            raise table.error(row, f"choices: {problem}", found=", ".join(repr(choice) for choice in choices[:6]))
    return lists


def _raw_choices(table: Table, columns: Columns) -> list[Any]:
    """What each row has for choices: a list of texts, if all is well."""
    if len(columns.choice_columns) == 1:
        values = list(table.need(columns.choice_columns[0]))
    else:
        values = [list(row) for row in zip(*(table.need(name) for name in columns.choice_columns), strict=True)]
        # Rows with fewer choices leave the last columns empty.
        values = [[v for i, v in enumerate(row) if v not in (None, "") or any(row[i + 1 :])] for row in values]
    values = [_parsed(value) if isinstance(value, str) else value for value in values]
    if columns.limit is None:
        return values
    return [[" ".join(choice.split()) for choice in value] if _are_texts(value) else value for value in values]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(choice, str) for choice in value)


def _without_blank_choices(tables: Mapping[str, Table], columns: Columns) -> tuple[dict[str, Table], list[str]]:
    """Published data holds a few rows with an empty distractor; they are left out, and it is said."""
    kept, notes = {}, []
    for split, table in tables.items():
        keep = [
            row
            for row, choices in enumerate(_raw_choices(table, columns))
            if not (_are_texts(choices) and "blank" in (choices_problem(choices) or ""))
        ]
        kept[split] = table.take(keep) if len(keep) < len(table) else table
        if len(keep) < len(table):
            notes.append(f"{split}: {len(table) - len(keep)} rows with a blank choice left out")
    return kept, notes


def _parsed(value: str) -> Any:
    """A list of choices in one cell of a CSV file: JSON, or separated by bars."""
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return [part.strip() for part in value.split("|")]


def _first_other(rows: Mapping[str, Rows], choices: list[str]) -> tuple[str, int] | None:
    for split, some in rows.items():
        for row, own in enumerate(some.choices or ()):
            if own != choices:
                return split, row
    return None


def _without_unlabelled(tables: Mapping[str, Table], columns: Columns) -> tuple[dict[str, Table], list[str]]:
    """Published data holds rows whose label is not public or was never settled; they are left out, and it is said.

    Where labels have names, -1 is none. A dev or test split without a label at all counts as missing.
    """
    kept, notes = {}, []
    for split, table in tables.items():
        names = table.label_names.get(columns.label or "", ())
        keep: Sequence[int] = range(len(table))
        if columns.label is not None and (names or columns.drop):
            dropped = {None, *columns.drop, *(i for i, name in enumerate(names) if name in columns.drop)}
            dropped |= {-1} if names else set()
            keep = [row for row, value in enumerate(table.need(columns.label)) if value not in dropped]
        if not keep and split not in ("dev", "test"):
            raise DataError(f"{table.where}: no row has a label", hint="this split's labels are not public")
        if not keep:
            notes.append(f"{split}: no row has a label, so it counts as missing")
            continue
        if len(keep) < len(table):
            notes.append(f"{split}: {len(table) - len(keep)} rows without a label left out")
        kept[split] = table.take(keep) if len(keep) < len(table) else table
    return kept, notes


def _shown(choices: Sequence[str]) -> str:
    return ", ".join(choices[:8]) + (f", ... ({len(choices)})" if len(choices) > 8 else "")
