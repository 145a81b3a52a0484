"""`transfer finetune`: train a delta on a target task, from an initialization or from scratch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from transfer.cli import options, sparsity
from transfer.cli.output import Output
from transfer.cli.places import check_new, check_writable, expanded, training_in
from transfer.deltas import METHODS

EXAMPLES = """\b
Examples:
  transfer finetune --target sentiment --source sample --start sentiment-lora
  transfer finetune --target reviews.csv --label-column verdict --add
  transfer finetune --target reviews.csv --method sora --xi 2e-3 --prune"""


def finetune(
    target: options.Target,
    start: Annotated[
        str | None, typer.Option("--start", "-s", help="What `transfer init` wrote, or a module id; else from scratch.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help=f"One of {options.METHOD_NAMES}; with --start its own.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Training steps.")] = 60,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Else the method's own.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples a step.")] = 16,
    eval_every: Annotated[
        int | None, typer.Option("--eval-every", help="Steps between looks at dev; else a sixth of --steps.")
    ] = None,
    patience: Annotated[
        int,
        typer.Option("--patience", min=0, help="Looks at dev without a better loss before stopping; 0 never stops."),
    ] = 3,
    keep: Annotated[
        str,
        typer.Option(
            "--keep",
            help="best (by dev, the start too) or last; to keep the head start: l2-sp, interpolate, average, "
            "soup, greedy-soup, mixing, mixing-rest, or auto, the best of most of them.",
        ),
    ] = "best",
    folds: Annotated[
        int | None,
        typer.Option("--folds", help="Choose by cross-validation over train and dev, then train on both."),
    ] = None,
    soup_with: Annotated[
        str | None, typer.Option("--soup-with", help="Further starts of a soup: a,b; else orders of data of one start.")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", help="mixing: tasks or ids left out, beside the target's own: a,b.")
    ] = None,
    examples: options.Examples = 64,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=expanded, help="Folder of the result; else TARGET-METHOD-tuned."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin again where that folder holds a result or an unfinished run.")
    ] = False,
    xi: sparsity.Xi = None,
    schedule: sparsity.Schedule = None,
    stages: sparsity.Stages = None,
    stage_steps: sparsity.StageSteps = None,
    threshold: sparsity.Threshold = None,
    scale_xi: sparsity.ScaleXi = False,
    gate_learning_rate: sparsity.GateLearningRate = None,
    penalty: sparsity.Penalty = None,
    prune: sparsity.Prune = False,
    picture: sparsity.Picture = None,
    zoo: options.ZooFolder = None,
    add: Annotated[bool, typer.Option("--add", help="Add the result to your zoo, with its signature.")] = False,
    source: options.SourceName = None,
    input_column: options.InputColumn = None,
    label_column: options.LabelColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    category: Annotated[
        str | None, typer.Option("--category", help="Kind of the task (sentiment, nli), for the card.")
    ] = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.MaxLength = 128,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train on TARGET, keep the best step on dev, and report test. A killed run goes on where it was."""
    from transfer.cli.report import show_finetuned, show_task
    from transfer.errors import ConfigError
    from transfer.finetuning import finetune as run
    from transfer.keeping import KEEPS
    from transfer.keeping.choosing import check_keep
    from transfer.resolving import load_start
    from transfer.similarity.sources import unmatched
    from transfer.training import TuneSettings
    from zoo import Zoo
    from zoo.writing import check_can_save

    output = Output(as_json=as_json, quiet=quiet)
    TuneSettings(  # wrong ones are refused before the data is read
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        eval_every=eval_every,
        patience=patience or None,
    )
    METHODS.resolve(method or "lora")
    view = options.open_zoo(zoo, new=add)
    begin = None if start is None else load_start(start, view)
    others = [load_start(name, view) for name in options.split_names(soup_with) or ()]
    named = (method or "lora") if begin is None else begin.delta.method.method
    if method not in (None, named):
        raise ConfigError(
            f"--method {method} with a start that is {named}", hint=f"leave --method out: {start} decides"
        )
    given = {
        "xi": xi,
        "threshold": threshold,
        "scale_by_rate": scale_xi or None,
        "gate_learning_rate": gate_learning_rate,
        "penalty": penalty,
    }
    if exclude is not None and not KEEPS.get(keep).sources:
        able = ", ".join(name for name in KEEPS.names() if KEEPS.get(name).sources)
        raise ConfigError(f"--exclude is for what is mixed in, and --keep {keep} mixes nothing", hint=f"--keep {able}")
    chosen, begin, plan = sparsity.read(named, begin, given, schedule, stages, stage_steps, prune, picture)
    task = options.read_task(target, examples, seed, source, input_column, label_column, choices, template, category)
    check_keep(keep, len(task.train), len(task.dev), folds, len(others))
    folder = out or Path(f"{task.name}-{named}-tuned")
    check_new(folder, "card.json", overwrite)
    check_can_save(folder, overwrite)
    check_writable(folder)
    store = (Zoo(zoo) if zoo is not None else Zoo.default()) if add else None
    if store is not None:
        check_writable(store.path / "modules", "--zoo")
    show_task(output, task)
    for line in unmatched(view, options.split_names(exclude) or ()):
        output.say(f"note: {line}")
    loaded = options.read_backbone(backbone, kind, precision, max_length)
    checkpoints = folder.parent / f".{folder.name}-checkpoints"
    with output.working(), training_in(checkpoints, afresh=overwrite):
        result = run(
            task,
            loaded,
            begin,
            method=chosen,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            eval_every=eval_every,
            patience=patience or None,
            keep=keep,
            folds=folds,
            others=others,
            exclude=options.split_names(exclude) or (),
            folder=checkpoints,
            zoo=view,
            add_to=store,
            measure_start=True,
            schedule=plan,
        )
    sora = result
    if prune:
        result = result.pruned()
    result.save(folder, replace=overwrite)
    shutil.rmtree(checkpoints, ignore_errors=True)
    described = options.again(
        target,
        source=source,
        input_column=input_column,
        label_column=label_column,
        choices=choices,
        template=template,
        backbone=options.unless(backbone, "embedded"),
        kind=options.unless(kind, "auto"),
        precision=options.unless(precision, "auto"),
        max_length=options.unless(max_length, 128),
    )
    added = None if store is None else (sora.module.id, store.path)
    show_finetuned(output, result, folder, described, added)
    sparsity.show(output, sora, picture)
