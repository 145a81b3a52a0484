"""Which columns of a table are the input, the choices and the label; what is left open is guessed in `guessing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.errors import ConfigError
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
