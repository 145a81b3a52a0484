"""Templates: `question: {q} context: {p}` filled from the columns of a table."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer.errors import ConfigError
from transfer.tasks.table import Table


@dataclass(frozen=True)
class Template:
    """Text with column names in braces; `{{` and `}}` are braces. `str` gives what `parse` reads.

    >>> Template.parse("question: {q} context: {p}").columns
    ('q', 'p')
    """

    parts: tuple[tuple[str, str | None], ...]  # literal text, then the column that follows it

    @classmethod
    def parse(cls, text: str) -> Template:
        """Read a template.

        Raises:
            ConfigError: unbalanced braces, no column at all, or a format after the column's name.
        """
        parts: list[tuple[str, str | None]] = []
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ConfigError(f"template {text!r}: {error}", hint="column names in braces: 'text: {review}'") from error
        for literal, column, spec, conversion in pieces:
            if column is not None and (not column or spec or conversion):
                raise ConfigError(
                    f"template {text!r}: only plain column names may stand in braces",
                    hint="'question: {q} context: {p}'; a brace itself is written twice",
                )
            parts.append((literal, column))
        if not any(column for _, column in parts):
            raise ConfigError(f"template {text!r} names no column", hint="'question: {q} context: {p}'")
        return cls(tuple(parts))

    @classmethod
    def join(cls, marks: Sequence[tuple[str, str]]) -> Template:
        """`name: {column}` for each (name, column), joined by spaces."""
        return cls(tuple((f"{' ' if i else ''}{name}: ", column) for i, (name, column) in enumerate(marks)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it needs, in order."""
        return tuple(column for _, column in self.parts if column is not None)

    @property
    def marks(self) -> tuple[str, ...]:
        """The names before its columns: "question" and "context" of the example above."""
        names = (re.search(r"([^:\s][^:]*):\s*$", literal) for literal, column in self.parts if column is not None)
        return tuple(name[1].strip() for name in names if name)

    def __str__(self) -> str:
        pieces = []
        for literal, column in self.parts:
            text = literal.replace("{", "{{").replace("}", "}}")
            pieces.append(text if column is None else f"{text}{{{column}}}")
        return "".join(pieces)

    def fill(
        self, table: Table, rewrite: Mapping[str, Mapping[str, str]] | None = None, limit: int | None = None
    ) -> list[str | None]:
        """One text per row, white space normalised; None where every column is missing or blank.

        Args:
            rewrite: column -> regular expression -> what is written instead.
            limit: Most characters of a text; the longest value is cut after a word to get there.

        Raises:
            DataError: a column is not in the table.
        """
        values = [as_texts(table.need(column), (rewrite or {}).get(column)) for column in self.columns]
        literals = [literal for literal, _ in self.parts]
        filled: list[str | None] = []
        for row in zip(*values, strict=True):
            if not any(row):
                filled.append(None)
                continue
            texts = list(row)
            text = _weave(literals, texts)
            while limit is not None and len(text) > limit and any(texts):
                longest = max(range(len(texts)), key=lambda i: len(texts[i]))
                texts[longest] = _cut(texts[longest], len(texts[longest]) - (len(text) - limit))
                text = _weave(literals, texts)
            filled.append(text)
        return filled


def as_texts(values: Sequence[Any], rewrite: Mapping[str, str] | None = None) -> list[str]:
    """Values as text with single spaces; lists are joined by spaces, None is ''."""
    patterns = [(re.compile(pattern), text) for pattern, text in (rewrite or {}).items()]
    texts = []
    for value in values:
        if value is None:
            text = ""
        elif isinstance(value, list | tuple):
            text = " ".join(str(item) for item in value)
        else:
            text = str(value)
        for pattern, written in patterns:
            text = pattern.sub(written, text)
        texts.append(" ".join(text.split()))
    return texts


def _cut(text: str, length: int) -> str:
    """The words that fit into `length` characters; a first word that does not fit is cut."""
    if length <= 0:
        return ""
    if text[length : length + 1] in ("", " "):
        return text[:length].rstrip()
    return text[:length].rpartition(" ")[0] or text[:length]


def _weave(literals: list[str], texts: list[str]) -> str:
    pieces = []
    for i, literal in enumerate(literals):
        pieces.append(literal)
        if i < len(texts):
            pieces.append(texts[i])
    return " ".join("".join(pieces).split())
