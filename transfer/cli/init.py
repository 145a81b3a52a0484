"""`transfer init`: an initialization for a target task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output
from transfer.cli.places import check_new, check_writable, expanded

EXAMPLES = """\b
Examples:
  transfer init --target sentiment --source sample --method lora
  transfer init --target sentiment --source sample --auto --explain --out auto
  transfer init --target reviews.csv --label-column verdict --top-k 3"""


def init(
    target: options.Target,
    method: options.MethodName = "lora",
    zoo: options.ZooFolder = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=expanded, help="Folder of the result; else TARGET-METHOD.")
    ] = None,
    examples: options.Examples = 64,
    estimator: Annotated[
        str,
        typer.Option(
            "--estimator",
            "-e",
            help="family:variant. Families: embedding, gradient, parameters, prediction, neighbours.",
        ),
    ] = "gradient:first-order",
    how: Annotated[
        str,
        typer.Option(
            "--weighting",
            "--how",
            help="From scores: softmax, uniform, best; on the examples: learned, search, greedy, cluster.",
        ),
    ] = "softmax",
    budget: Annotated[
        float | None,
        typer.Option("--budget", help="Seconds for a weighting on examples, or for --auto; then the best so far."),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Try several starts on the examples and take the best (120 s).")
    ] = False,
    temperature: Annotated[float, typer.Option("--temperature", help="Of the softmax over standardised scores.")] = 0.5,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Sources kept; else all.")] = None,
    merge: Annotated[
        str,
        typer.Option(
            "--merge",
            help="auto, linear, published, task-arithmetic, ties, dare, dare-ties, concat, svd, knots, regmean, "
            "aligned.",
        ),
    ] = "auto",
    rank: Annotated[int | None, typer.Option("--rank", help="Of the result of svd, knots, regmean.")] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", help="Share of squared singular values that svd, knots, regmean keep.")
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="Of each change kept; else ties, knots .2, dare, dare-ties .5.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Of the whole change, for task-arithmetic; else 1.")
    ] = None,
    per_block: Annotated[
        bool, typer.Option("--per-block", help="Score (or learn), weigh and merge each block by itself.")
    ] = False,
    exclude: Annotated[
        str | None,
        typer.Option("--exclude", help="Tasks or ids left out: a,b; the target's own is, unless --include-own."),
    ] = None,
    include_own: options.IncludeOwn = False,
    guard: Annotated[
        bool, typer.Option("--guard/--no-guard", help="Tune a few steps from here and from scratch, and compare.")
    ] = True,
    guard_steps: Annotated[int, typer.Option("--guard-steps", help="Steps of that comparison.")] = 20,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples a step.")] = 16,
    overwrite: options.Overwrite = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Write report.html beside the result: pictures, curves, all sources.")
    ] = False,
    source: options.SourceName = None,
    input_column: options.InputColumn = None,
    label_column: options.LabelColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    category: options.Category = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.MaxLength = 128,
    force: options.Force = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Build an initialization for TARGET from the modules in the zoo, and say whether it helps."""
    from transfer.cli.report import show_initialization, show_task
    from transfer.initialization import FILES, PAGE, RECIPE
    from transfer.initializing import InitConfig, initialize
    from zoo.folders import check_replaceable

    merge_options = {"rank": rank, "energy": energy, "density": density, "scale": scale}
    output = Output(as_json=as_json, quiet=quiet)
    InitConfig(  # before the work, not after it
        method=method,
        estimator=estimator,
        how=how,
        per_block=per_block,
        budget=budget,
        merge=merge,
        merge_options=merge_options,
        temperature=temperature,
        top_k=top_k,
        guard=guard,
        guard_steps=guard_steps,
        batch_size=batch_size,
        auto=auto,
    )
    task = options.read_task(target, examples, seed, source, input_column, label_column, choices, template, category)
    folder = out or Path(f"{task.name}-{method}")
    check_new(folder, RECIPE, overwrite)
    check_replaceable(folder, FILES, RECIPE)
    check_writable(folder)
    show_task(output, task)
    loaded = options.read_backbone(backbone, kind, precision, max_length)
    with output.working():
        initialization = initialize(
            task,
            options.open_zoo(zoo),
            loaded,
            method,
            estimator=estimator,
            temperature=temperature,
            top_k=top_k,
            how=how,
            budget=budget,
            merge=merge,
            merge_options=merge_options,
            per_block=per_block,
            exclude=options.split_names(exclude) or (),
            include_own=include_own,
            guard=guard,
            guard_steps=guard_steps,
            batch_size=batch_size,
            seed=seed,
            force=force,
            auto=auto,
            explain=explain,
            say=lambda line: output.say(f"note: {line}"),
        )
    initialization.save(folder)
    if explain:
        from transfer.report import write_page

        write_page(initialization.recipe, folder / PAGE)
    described = options.again(
        target,
        source=source,
        input_column=input_column,
        label_column=label_column,
        choices=choices,
        template=template,
        category=category,
        examples=options.unless(examples, 64),
        seed=options.unless(seed, 0),
        backbone=options.unless(backbone, "embedded"),
        kind=options.unless(kind, "auto"),
        precision=options.unless(precision, "auto"),
        max_length=options.unless(max_length, 128),
        batch_size=options.unless(batch_size, 16),
        zoo=zoo,
    )
    show_initialization(output, initialization, folder, described, folder / PAGE if explain else None)
