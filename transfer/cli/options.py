"""Options that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.deltas import METHODS

if TYPE_CHECKING:
    from transfer.backbones import Backbone
    from transfer.tasks import Task
    from zoo import Zoo, ZooView

Target = Annotated[str, typer.Option("--target", "-t", help="Task: a name (boolq) or a path (reviews.csv).")]
METHOD_NAMES = ", ".join(METHODS.names())
MethodName = Annotated[str, typer.Option("--method", "-m", help=f"One of {METHOD_NAMES}.")]
BackboneName = Annotated[str, typer.Option("--backbone", "-b", help="embedded, a folder or a Hub id.")]
Kind = Annotated[str, typer.Option("--kind", help="auto, encoder, seq2seq or causal.")]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens an input is cut to.")]
TrainedLength = Annotated[
    int | None, typer.Option("--max-length", help="Tokens an input is cut to; else as the delta was trained, or 128.")
]
ZooFolder = Annotated[
    Path | None,
    typer.Option("--zoo", help="Your zoo; else $TRANSFER_ZOO, else the data folder. The starter zoo is searched too."),
]
OwnZoo = Annotated[Path | None, typer.Option("--zoo", help="Your zoo; else $TRANSFER_ZOO, else the data folder.")]
Examples = Annotated[
    int,
    typer.Option(
        "--examples",
        "-n",
        min=0,
        help="Labelled examples to train on, and at most as many for dev; 0 takes all.",
    ),
]
# What numpy, torch and the Trainer all take as a seed.
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Of drawing examples and of training.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Take the place of an earlier result in that folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no more than the result.")]
Force = Annotated[bool, typer.Option("--force", help="Take modules trained on another backbone all the same.")]
IncludeOwn = Annotated[bool, typer.Option("--include-own", help="Take modules of the target's own task, too.")]
SourceName = Annotated[
    str | None,
    typer.Option("--source", help="Only look there: path, folder, hub or sample."),
]
InputColumn = Annotated[
    str | None,
    typer.Option("--input-column", help="Column (or a,b) of the input."),
]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Column of the right answer.")]
Choices = Annotated[
    str | None,
    typer.Option("--choices", help="Answers in the order of the labels: no,yes."),
]
Template = Annotated[
    str | None,
    typer.Option("--template", help='Builds the input: "question: {q} text: {t}".'),
]

ModuleId = Annotated[str, typer.Argument(metavar="ID", help="As `transfer zoo ls` prints it.")]
Category = Annotated[
    str | None,
    typer.Option("--category", help="Kind of the target's task (sentiment, nli): its relatives are looked for by it."),
]


def read_task(
    target: str,
    examples: int | None,
    seed: int,
    source: str | None,
    input_column: str | None,
    label_column: str | None,
    choices: str | None,
    template: str | None,
    category: str | None = None,
) -> Task:
    """The task that these options describe; 0 examples are all there are."""
    from transfer.tasks import load_task

    return load_task(
        target,
        examples=examples or None,
        seed=seed,
        source=source,
        input_column=input_column,
        label_column=label_column,
        choices=split_choices(choices),
        template=template,
        category=category,
    )


def read_backbone(name: str, kind: str, precision: str, max_length: int) -> Backbone:
    """The backbone that these options describe."""
    from transfer.backbones import load_backbone

    return load_backbone(name, kind, precision=precision, max_length=max_length)  # type: ignore[arg-type]


def split_names(text: str | None) -> list[str] | None:
    """`a,b` as a list; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def split_choices(text: str | None) -> list[str] | None:
    """`no,yes` as a list; a blank between commas stays, to be refused where choices are."""
    return None if text is None else [part.strip() for part in text.split(",")]


def zoos(folder: Path | None) -> list[Zoo]:
    """The user's zoo and the starter zoo, once if they are the same."""
    from zoo import Zoo

    own, starter = Zoo(folder) if folder is not None else Zoo.default(), Zoo.starter()
    return [own] if own.path.resolve() == starter.path.resolve() else [own, starter]


def open_zoo(folder: Path | None, new: bool = False) -> ZooView:
    """The user's zoo and the starter zoo, searched as one.

    Args:
        folder: What the user named; None is the default place, which need not be there yet.
        new: The command may make the folder; else a line says that it is not there.
    """
    from zoo import ZooView

    if folder is not None and not new and not folder.expanduser().is_dir():
        print(f"note: there is no zoo {folder}; only the starter zoo is searched", file=sys.stderr)
    return ZooView(zoos(folder))


def again(target: str, **flags: object) -> str:
    """The flags that describe the target, for the command that comes next; what is None is left out.

    >>> again("my reviews.csv", label_column="verdict", source=None, max_length=64)
    "--target 'my reviews.csv' --label-column verdict --max-length 64"
    """
    words = ["--target", target]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def unless(value: object, default: object) -> object | None:
    """None for what an option is by default, so that `again` leaves it out."""
    return None if value == default else value
