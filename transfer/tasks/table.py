"""Tables as they were read, and the rows of examples made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transfer.errors import DataError


@dataclass(frozen=True)
class Table:
    """One split as it was read: columns of equal length, and where each row stands.

    Args:
        where: The file, or the Hub's dataset and split; for messages.
        columns: name -> one value per row; None where a row lacks it.
        lines: Line (or row) number of each row, counted from 1.
        unit: "line" in text files, "row" elsewhere.
        label_names: column -> the names behind its integers, where the format knows them.
        notes: Lines to tell the user of what was read in another way than it stands there.
    """

    where: str
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    unit: str = "line"
    label_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where row `row` (from 0) stands, for messages: "reviews.csv, line 7"."""
        return f"{self.where}, {self.unit} {self.lines[row]}"

    def error(self, row: int, message: str, *, found: str | None = None, hint: str | None = None) -> DataError:
        """A DataError that names the file and the line of `row`."""
        return DataError(f"{self.place(row)}: {message}", found=found, hint=hint)

    def take(self, rows: Sequence[int]) -> Table:
        """The rows at `rows`, in that order, with the lines they stand on."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in rows])

    def need(self, column: str, hint: str | None = None) -> Sequence[Any]:
        """The values of `column`.

        Raises:
            DataError: there is no such column; names those that are there.
        """
        if column not in self.columns:
            known = ", ".join(repr(name) for name in self.columns if name)
            raise DataError(
                f"{self.where} has no column {column!r}",
                found=f"columns {known}",
                hint=hint or "name the columns with --input-column and --label-column, or with --template",
            )
        return self.columns[column]


@dataclass(frozen=True)
class Rows:
    """Examples of one split. Either `choices` and `labels`, or `outputs`; lists of one length."""

    inputs: list[str]
    choices: list[list[str]] | None = None
    labels: list[int] | None = None
    outputs: list[str] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Sequence[int]) -> Rows:
        """The rows at `indices`, in that order."""
        return Rows(
            inputs=[self.inputs[i] for i in indices],
            choices=None if self.choices is None else [self.choices[i] for i in indices],
            labels=None if self.labels is None else [self.labels[i] for i in indices],
            outputs=None if self.outputs is None else [self.outputs[i] for i in indices],
        )


def joined(tables: Sequence[Table], where: str) -> Table:
    """Tables with the same columns, one below the other; rows are counted on.

    Raises:
        DataError: one lacks a column that the first has.
    """
    if len(tables) == 1:
        return tables[0]
    columns = {name: [value for table in tables for value in table.need(name)] for name in tables[0].columns}
    lines = range(1, sum(len(table) for table in tables) + 1)
    notes = tuple(note for table in tables for note in table.notes)
    return Table(where, columns, lines, unit="row", label_names=tables[0].label_names, notes=notes)
