"""load_rows: the rows of a file whose answers are yet to be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from transfer.errors import ConfigError
from transfer.tasks.columns import Columns
from transfer.tasks.examples import choice_lists, input_texts
from transfer.tasks.fields import find_fields
from transfer.tasks.guessing import complete_unlabelled, template_of
from transfer.tasks.readers import read
from transfer.tasks.table import Table
from transfer.tasks.template import Template

READY = "{input}"  # a column that held the inputs as they are: how they were built it does not say


class Rows(NamedTuple):
    """Rows to be answered, the fields that all inputs have, lines that tell what was guessed, and whose delta answers.

    `deltas` holds a name for each row, or None where it is blank; it is empty where no column of them was asked for.
    """

    rows: list[dict[str, Any]]
    fields: tuple[str, ...]
    notes: tuple[str, ...]
    deltas: tuple[str | None, ...] = ()


def load_rows(
    path: str | Path,
    input_column: str | Sequence[str] | None = None,
    choices: Sequence[str] | None = None,
    template: str | None = None,
    delta_column: str | None = None,
    trained: str = "",
) -> Rows:
    """Read rows to be answered: a `.jsonl`, `.csv`, `.tsv` or `.parquet` file; labels in it are passed over.

    Args:
        input_column: As for `load_task`; guessed when obvious.
        choices: The answers, the same for every row; None takes each row's own, if the file has them.
        template: As for `load_task`.
        delta_column: Column that names the delta of each row; it is no input then.
        trained: Template of the inputs that a delta was trained with: where nothing else is told and the file has its
            columns, inputs are built by it.

    Returns:
        One dict per row in the order of the file, with `input` and, unless answers are to be written freely,
        `choices`; the fields that all inputs have; what was guessed of the columns; and the names of deltas.

    Raises:
        DataError: the file cannot be used; names the line and what to do.
        ConfigError: an argument is out of range, or two exclude each other.
    """
    table = read(Path(path).expanduser())
    deltas: tuple[str | None, ...] = ()
    if delta_column is not None:
        named = table.need(delta_column, hint="--delta-column names the column that says which delta answers a row")
        deltas = tuple(None if name is None or not str(name).strip() else str(name).strip() for name in named)
        table = replace(table, columns={name: column for name, column in table.columns.items() if name != delta_column})
    told = Columns.from_arguments(input_column, None, choices, template)
    if not told.inputs and told.template is None and trained:
        told = replace(told, **_as_trained(table, trained))
    columns, guessed = complete_unlabelled(told, table)
    notes = (*table.notes, *guessed)
    if trained not in ("", READY) and str(template_of(columns)) != trained:
        notes = (*notes, f"the delta was trained on inputs like '{trained}', not '{template_of(columns)}'")
    inputs: list[str] = []
    for row, text in enumerate(input_texts(table, columns)):
        if text is None:
            raise table.error(row, "the input is blank", hint="every row needs an input; leave blank rows out")
        inputs.append(text)
    fields = find_fields(inputs, template_of(columns).marks)
    if columns.choices is not None:
        answers = list(columns.choices)
        return Rows([{"input": text, "choices": answers} for text in inputs], fields, notes, deltas)
    if columns.choice_columns:
        own = choice_lists(table, columns)
        rows = [{"input": text, "choices": some} for text, some in zip(inputs, own, strict=True)]
        return Rows(rows, fields, notes, deltas)
    return Rows([{"input": text} for text in inputs], fields, notes, deltas)


def _as_trained(table: Table, trained: str) -> dict[str, Any]:
    """What says the input of `Columns` by a delta's template; nothing where the file lacks a column of it."""
    try:
        template = Template.parse(trained)
    except ConfigError:  # a card by others may say anything
        return {}
    if not set(template.columns) <= set(table.columns):
        return {}
    alone = template.parts == (("", template.columns[0]),)  # a single column is taken as it stands
    return {"inputs": template.columns} if alone else {"template": trained}
