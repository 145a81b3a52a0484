"""load_task: from a name or a path to a Task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import datasets

from transfer.errors import ConfigError, DataError
from transfer.tasks.columns import Columns
from transfer.tasks.examples import Examples, build, looks_like_answers
from transfer.tasks.fields import find_fields
from transfer.tasks.sampling import LARGEST_SPLIT, divide, draw
from transfer.tasks.sources import Found, find
from transfer.tasks.table import Rows
from transfer.tasks.task import Task

_SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}
_FEW = {"input": datasets.Value("string")}
_CHOICE_FEATURES = datasets.Features(
    _FEW | {"choices": datasets.List(datasets.Value("string")), "label": datasets.Value("int64")}
)
_OUTPUT_FEATURES = datasets.Features(_FEW | {"output": datasets.Value("string")})


def load_task(
    name_or_path: str,
    examples: int | None = None,
    seed: int = 0,
    source: str | None = None,
    input_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    choices: Sequence[str] | None = None,
    template: str | None = None,
    category: str | None = None,
) -> Task:
    """Load a task.

    Args:
        name_or_path: A path if it has a separator or a suffix (`./reviews`, `reviews.csv`), else a task's name, which
            is looked for under $TRANSFER_TASKS, on the Hub through the catalogue, and among the samples.
        examples: Rows of train, and at most so many of dev, drawn evenly over the labels; None is all. test is whole.
        seed: Of the draw alone. A file without splits is always split the same way.
        source: Only look at "path", "folder", "hub" or "sample".
        input_column: The input's column, as it stands; several (a list, or `a,b`) are joined as `name: value`.
        label_column: The column of the right answer: a choice's text, or its position from 0.
        choices: The answers in the order of the labels, the same for every row.
        template: Builds the input from columns, such as `question: {q} context: {p}`; instead of `input_column`.
        category: What kind of task it is, such as "sentiment": what relatives are looked for by. Goes before what the
            data says of itself.

    Raises:
        UnknownNameError: no source knows the name.
        DataError: the data cannot be used; names the file, the line and what to do.
        ConfigError: an argument is out of range, or two exclude each other.
    """
    if examples is not None and (isinstance(examples, bool) or not isinstance(examples, int) or examples < 1):
        raise ConfigError(f"examples must be at least 1, got {examples}", hint="leave it out for all there are")
    columns = Columns.from_arguments(input_column, label_column, choices, template)
    found = find(str(name_or_path), columns, source)
    built = build(found.tables, _with_answers(found), found.facts.kind)
    rows, notes = _splits(built, found)
    fields = find_fields(rows["train"].inputs, built.marks)
    rows, drawn = _few(rows, built, examples, seed)
    drawn += _overlap(rows)
    return Task(
        name=found.name,
        kind=built.kind,
        train=_dataset(rows["train"]),
        dev=_dataset(rows["dev"]),
        test=_dataset(rows["test"]),
        metric=found.facts.metric or ("rouge_l" if built.kind == "generation" else "accuracy"),
        category=(category or "").strip() or found.facts.category or "other",
        source=found.line,
        origin=found.origin,
        license=found.facts.license or "unknown",
        provenance=found.facts.provenance or "",
        fields=fields,
        template=built.template,
        notes=(*found.notes, *built.notes, *notes, *drawn),
        examples=examples,
        seed=seed,
    )


def _with_answers(found: Found) -> Columns:
    """CrossFit writes classification and generation alike; texts that keep coming back are answers to choose from."""
    columns = found.columns
    if found.guess_answers and not columns.given and looks_like_answers(found.tables, "output"):
        return replace(columns, label="output")
    return columns


def _splits(built: Examples, found: Found) -> tuple[dict[str, Rows], list[str]]:
    """train, dev and test; those that the data lacks are taken off train, and the notes say so."""
    rows = dict(built.rows)
    if "all" in rows:
        parts = _divide(rows["all"], list(_SHARES.values()), built, found)
        rows = {split: rows["all"].take(part) for split, part in zip(_SHARES, parts, strict=True)}
        sizes = "/".join(str(len(some)) for some in rows.values())
        return rows, [f"one file, split 80/10/10 into train/dev/test ({sizes} rows), evenly over the labels"]
    missing = [split for split in ("dev", "test") if split not in rows]
    if not missing:
        return rows, []
    train = rows["train"]
    share = min(0.1, LARGEST_SPLIT / len(train))
    parts = _divide(train, [1 - share * len(missing), *[share] * len(missing)], built, found)
    rows["train"] = train.take(parts[0])
    notes = []
    for split, part in zip(missing, parts[1:], strict=True):
        rows[split] = train.take(part)
        notes.append(f"no {split} split: {len(part)} rows were split off train for it")
    return {split: rows[split] for split in _SHARES}, notes


def _divide(rows: Rows, shares: Sequence[float], built: Examples, found: Found) -> list[list[int]]:
    try:
        even = rows if built.kind != "multiple_choice" else replace(rows, labels=None)
        return divide(even, shares, fields=find_fields(rows.inputs, built.marks))
    except ValueError as error:
        table = next(iter(found.tables.values()))
        raise DataError(
            f"{table.where}: too few rows to split: {error}", hint="add rows, or give train, dev and test in a folder"
        ) from error


def _few(rows: Mapping[str, Rows], built: Examples, n: int | None, seed: int) -> tuple[dict[str, Rows], list[str]]:
    """At most `n` rows of train and of dev."""
    if n is None:
        return dict(rows), []
    notes = []
    few = dict(rows)
    for split in ("train", "dev"):
        labels = rows[split].labels if built.kind == "classification" else None
        few[split] = rows[split].take(draw(labels or [0] * len(rows[split]), n, seed, salt=split))
        if len(rows[split]) < n:
            notes.append(f"{split} has {len(rows[split])} rows, fewer than the {n} asked for")
    return few, notes


def _overlap(rows: Mapping[str, Rows]) -> list[str]:
    """A line for each split that asks what train has already answered."""
    seen = set(rows["train"].inputs)
    counts = {split: sum(text in seen for text in rows[split].inputs) for split in ("dev", "test")}
    return [f"{n} of {len(rows[split])} {split} inputs stand in train too" for split, n in counts.items() if n]


def _dataset(rows: Rows) -> datasets.Dataset:
    if rows.outputs is not None:
        return datasets.Dataset.from_dict({"input": rows.inputs, "output": rows.outputs}, _OUTPUT_FEATURES)
    columns = {"input": rows.inputs, "choices": rows.choices, "label": rows.labels}
    return datasets.Dataset.from_dict(columns, _CHOICE_FEATURES)
