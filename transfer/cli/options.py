"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from transfer.backbones import Backbone
    from transfer.tasks import Task
    from zoo import Zoo, ZooView

Target = Annotated[str, typer.Option("--target", "-t", help="Task: a name (boolq) or a path (reviews.csv).")]
MethodName = Annotated[str, typer.Option("--method", "-m", help="lora, adapter or prefix.")]
BackboneName = Annotated[
    str, typer.Option("--backbone", "-b", help="embedded, a folder or a Hub id.", rich_help_panel="Backbone")
]
Kind = Annotated[str, typer.Option("--kind", help="auto, encoder, seq2seq or causal.", rich_help_panel="Backbone")]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.", rich_help_panel="Backbone")]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens an input is cut to.", rich_help_panel="Backbone")]
ZooFolder = Annotated[
    Path | None,
    typer.Option("--zoo", help="Your zoo; else $TRANSFER_ZOO, else the data folder. The starter zoo is searched too."),
]
Examples = Annotated[int, typer.Option("--examples", "-n", help="Labelled target examples in all; 0 takes all.")]
Seed = Annotated[int, typer.Option("--seed", help="Of drawing examples and of training.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no more than the result.")]
Force = Annotated[bool, typer.Option("--force", help="Take modules trained on another backbone all the same.")]
SourceName = Annotated[
    str | None,
    typer.Option("--source", help="Only look there: path, folder, hub or sample.", rich_help_panel="Target data"),
]
InputColumn = Annotated[
    str | None,
    typer.Option("--input-column", help="Column (or a,b) of the input.", rich_help_panel="Target data"),
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column of the right answer.", rich_help_panel="Target data")
]
Choices = Annotated[
    str | None,
    typer.Option("--choices", help="Answers in the order of the labels: no,yes.", rich_help_panel="Target data"),
]
Template = Annotated[
    str | None,
    typer.Option("--template", help='Builds the input: "question: {q} text: {t}".', rich_help_panel="Target data"),
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
        choices=split_names(choices),
        template=template,
    )


def read_backbone(name: str, kind: str, precision: str, max_length: int) -> Backbone:
    """The backbone that these options describe."""
    from transfer.backbones import load_backbone

    return load_backbone(name, kind, precision=precision, max_length=max_length)  # type: ignore[arg-type]


def split_names(text: str | None) -> list[str] | None:
    """`a,b` as a list; None stays None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def zoos(folder: Path | None) -> list[Zoo]:
    """The user's zoo and the starter zoo."""
    from zoo import Zoo

    return [Zoo(folder) if folder is not None else Zoo.default(), Zoo.starter()]


def open_zoo(folder: Path | None) -> ZooView:
    """The user's zoo and the starter zoo, searched as one."""
    from zoo import ZooView

    return ZooView(zoos(folder))


def again(target: str, **flags: str | None) -> str:
    """The flags that describe the target, for the command that comes next."""
    import shlex

    words = ["--target", target]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value]
    return shlex.join(words)
