"""Which columns of a table are the input, the choices and the label: told by arguments, or guessed when obvious."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transfer.errors import ConfigError, DataError
from transfer.tasks.labels import refuse_tags
from transfer.tasks.table import Table
from transfer.tasks.template import Template


@dataclass(frozen=True, kw_only=True)
class Columns:
    """How a row becomes an example. What is left out is guessed by `complete`.

    Args:
        template: Builds the input from columns; goes before `inputs`.
        inputs: Columns of the input: one is taken as it stands, several are joined as `name: value`.
        label: Column of the right answer.
        output: Column of the text to generate, for a generation task.
        choices: The answers, the same for every row, in the order of the labels.
        values: What the label column says for each choice, where that is not its position or its text; an entry may be
            a list of values that mean the same.
        choice_columns: One column with a list per row, or one column per choice.
        letters: Column with the names of a row's choices, a list; the label is one of them.
        rewrite: column -> regular expression -> what is written instead.
        drop: Values of the label column (or their names) that mean "no label"; such rows are left out.
        limit: Most characters of an input.
        lenient: Leave rows with a blank input out instead of refusing them.
    """

    template: str | None = None
    inputs: tuple[str, ...] = ()
    label: str | None = None
    output: str | None = None
    choices: tuple[str, ...] | None = None
    values: tuple[Any, ...] | None = None
    choice_columns: tuple[str, ...] = ()
    letters: str | None = None
    rewrite: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    drop: tuple[Any, ...] = ()
    limit: int | None = None
    lenient: bool = False

    @classmethod
    def from_arguments(
        cls,
        input_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        choices: Sequence[str] | None = None,
        template: str | None = None,
    ) -> Columns:
        """What a user gave; empty when nothing was.

        Raises:
            ConfigError: fewer than two choices, a choice twice or blank, or both an input column and a template.
        """
        if input_column is not None and template is not None:
            raise ConfigError("an input column and a template were given", hint="the template alone names the columns")
        if template is not None:
            Template.parse(template)
        wording: tuple[str, ...] | None = None
        if choices is not None:
            if isinstance(choices, str):
                choices = choices.split(",")
            wording = tuple(str(choice).strip() for choice in choices)
            problem = choices_problem(wording)
            if problem:
                raise ConfigError(f"choices {', '.join(repr(c) for c in wording)}: {problem}", hint="--choices no,yes")
        inputs = input_column.split(",") if isinstance(input_column, str) else list(input_column or ())
        return cls(
            template=template,
            inputs=tuple(column.strip() for column in inputs),
            label=label_column,
            choices=wording,
        )

    @property
    def given(self) -> bool:
        """Whether anything at all was told."""
        return bool(self.template or self.inputs or self.label or self.choices or self.output)


def choices_problem(choices: Sequence[str]) -> str | None:
    """What is wrong with a list of choices, or None."""
    if len(choices) < 2:
        return "at least two are needed"
    if any(not choice.strip() for choice in choices):
        return "one is blank"
    if len(set(choices)) < len(choices):
        return f"{next(c for c in choices if list(choices).count(c) > 1)!r} stands there twice"
    return None


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
_NUMBERED = re.compile(r"(choice|option|answer|ending|sol|solution|candidate)([0-9]|[A-E])$", re.IGNORECASE)
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
    """As `complete`, for rows whose answers are yet to be found: a label column is not looked for.

    Raises:
        DataError: no column is obviously the input.
    """
    columns, notes = _with_choices(columns, table, _plain(table))
    columns, said = _with_input(columns, table)
    return columns, notes + said


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


def _mark(column: str) -> str:
    return _MARKS.get(_words(column).replace(" ", ""), _words(column) or column)


def _guess_choices(table: Table, plain: Mapping[str, str]) -> tuple[str, ...]:
    for word in _CHOICES:
        if word in plain:
            return (plain[word],)
    for word in ("choices text", "options text"):  # a struct of lists, as in ARC
        if word in plain:
            return (plain[word],)
    numbered: dict[str, list[str]] = {}
    for name in table.columns:
        match = _NUMBERED.match(re.sub(r"[\s_-]", "", name))
        if match:
            numbered.setdefault(match[1].lower(), []).append(name)
    groups = [sorted(names) for names in numbered.values() if len(names) >= 2]
    return tuple(groups[0]) if len(groups) == 1 else ()


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


def _guess_input(table: Table, columns: Columns) -> dict[str, Any]:
    if "input" in table.columns:
        return {"inputs": ("input",)}
    taken = {columns.label, columns.output, columns.letters, *columns.choice_columns}
    free = [name for name in table.columns if name and name not in taken and _holds_text(table.columns[name])]
    known = {}
    for name in free:
        key = _words(name).replace(" ", "")
        if key in _MARKS:
            known[name] = key
    if known:
        order = list(_MARKS)
        chosen = sorted(known, key=lambda name: order.index(known[name]))
        marks = [_MARKS[known[name]] for name in chosen]
        if len(set(marks)) < len(marks):  # `text` and `body`, say: their own names keep them apart
            marks = [_words(name) for name in chosen]
        return {"template": " ".join(f"{mark}: {{{name}}}" for mark, name in zip(marks, chosen, strict=True))}
    rest = [name for name in free if _words(name) not in _NOT_TEXT and not _words(name).endswith(" id")]
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


def _holds_text(values: Sequence[Any]) -> bool:
    seen = [value for value in values[:200] if value is not None and value != ""]
    return bool(seen) and all(isinstance(v, str | list) for v in seen) and not all(_is_number(v) for v in seen)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
