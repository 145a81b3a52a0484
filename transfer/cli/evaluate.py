"""`transfer evaluate`: measure an initialization, a module or the bare backbone on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

EXAMPLES = """\b
Examples:
  transfer evaluate --target sentiment --source sample --delta sentiment-tuned
  transfer evaluate --target sentiment --source sample --split dev"""


def evaluate(
    target: options.Target,
    delta: Annotated[
        str | None, typer.Option("--delta", "-d", help="Folder or module id; else the bare backbone.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, dev or test.")] = "test",
    zoo: options.ZooFolder = None,
    source: options.SourceName = None,
    input_column: options.InputColumn = None,
    label_column: options.LabelColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.TrainedLength = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure on a split of TARGET: accuracy and macro-F1, or exact match, token F1 and ROUGE-L for generation."""
    from transfer.cli.report import show_evaluation, show_task
    from transfer.evaluation import evaluate as measure
    from transfer.resolving import load_start, trained_length

    output = Output(as_json=as_json, quiet=quiet)
    task = options.read_task(target, None, 42, source, input_column, label_column, choices, template)
    show_task(output, task)
    start = None if delta is None else load_start(delta, options.open_zoo(zoo))
    loaded = options.read_backbone(backbone, kind, precision, max_length or trained_length([start]))
    with output.working():
        found = measure(task, loaded, start, split)
    show_evaluation(output, found, delta or "bare backbone")
