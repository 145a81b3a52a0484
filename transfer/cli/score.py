"""`transfer score`: how close each module of the zoo is to a target task."""

from __future__ import annotations

from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

EXAMPLES = """\b
Examples:
  transfer score --target sentiment --source sample --method lora
  transfer score --target reviews.csv --label-column verdict --top 5 --json"""


def score(
    target: options.Target,
    method: options.MethodName = "lora",
    zoo: options.ZooFolder = None,
    examples: options.Examples = 64,
    estimator: Annotated[
        str, typer.Option("--estimator", "-e", help="family:variant; the family alone means its default.")
    ] = "gradient:first-order",
    top: Annotated[int, typer.Option("--top", min=0, help="Rows to print; 0 prints all.")] = 10,
    exclude: Annotated[
        str | None,
        typer.Option("--exclude", help="Tasks or ids left out: a,b; the target's own is, unless --include-own."),
    ] = None,
    include_own: options.IncludeOwn = False,
    source: options.SourceName = None,
    input_column: options.InputColumn = None,
    label_column: options.LabelColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.MaxLength = 128,
    force: options.Force = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score every module of METHOD against TARGET; higher is closer."""
    from transfer.cli.report import show_task
    from transfer.similarity import score as score_modules
    from transfer.similarity.sources import unmatched

    output = Output(as_json=as_json, quiet=quiet)
    task = options.read_task(target, examples, seed, source, input_column, label_column, choices, template)
    show_task(output, task)
    loaded = options.read_backbone(backbone, kind, precision, max_length)
    left_out = options.split_names(exclude) or ()
    view = options.open_zoo(zoo)
    for line in unmatched(view, left_out):
        output.say(f"note: {line}")
    with output.working():
        scores = score_modules(
            task,
            view,
            loaded,
            method,
            estimator,
            exclude=left_out,
            include_own=include_own,
            seed=seed,
            force=force,
        )
    rows = scores.top(top or len(scores.ids))
    output.json(
        {"estimator": scores.estimator, "seconds": scores.seconds, "scores": [{"id": i, "score": s} for i, s in rows]}
    )
    output.table(("module", f"{scores.estimator}"), rows, flexible="module")
    output.say(f"{len(scores.ids)} modules scored in {scores.seconds:.1f} s")
    if output.quiet and not as_json:
        for module, value in rows:
            output.result(f"{module}\t{value:.6g}")
