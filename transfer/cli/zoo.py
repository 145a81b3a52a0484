"""`transfer zoo`: the modules one has."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transfer.cli import options
from transfer.cli.output import Output

if TYPE_CHECKING:
    from zoo import Zoo

app = typer.Typer(
    no_args_is_help=True, help="The modules one has: ls, show, add, build, verify, rm, export.", rich_markup_mode=None
)
ModuleId = Annotated[str, typer.Argument(metavar="ID", help="As `transfer zoo ls` prints it.")]


def _own(folder: Path | None) -> Zoo:
    """The user's zoo alone, for what changes it."""
    from zoo import Zoo

    return Zoo(folder) if folder is not None else Zoo.default()


@app.command("ls", epilog="Example:  transfer zoo ls --method lora --category sentiment")
def ls(
    task: Annotated[str | None, typer.Option("--task", help="Only of this task.")] = None,
    method: Annotated[str | None, typer.Option("--method", "-m", help="Only of this method.")] = None,
    backbone: Annotated[str | None, typer.Option("--backbone", "-b", help="Only for this backbone's name.")] = None,
    category: Annotated[str | None, typer.Option("--category", help="Only of this category.")] = None,
    zoo: options.ZooFolder = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List modules: yours and the starter zoo's."""
    from transfer.paths import without_folders

    output = Output(as_json=as_json, quiet=quiet)
    named = None if backbone is None else without_folders(backbone)
    found = options.open_zoo(zoo).find(task=task, method=method, backbone=named, category=category)
    output.json([_facts(module) for module in found])
    rows = []
    for module in found:
        metrics = module.card.metrics
        rows.append((module.id, module.card.category, _accuracy(metrics.get("test")), _untrained(metrics)))
    output.table(("module", "category", "test", "untrained"), rows, flexible="module")
    output.say(f"{len(found)} modules; test and untrained are accuracies on the module's own task")
    if unread := _unreadable(zoo):
        again = "transfer zoo verify" if zoo is None else f"transfer zoo verify --zoo {shlex.quote(str(zoo))}"
        output.path(f"{_count(unread, 'folder')} cannot be read: {again}")
    if output.quiet and not as_json:
        for module in found:
            output.result(module.id)


@app.command("show", epilog="Example:  transfer zoo show trec-lora-1a2b3c4d")
def show(module: ModuleId, zoo: options.ZooFolder = None, as_json: options.Json = False) -> None:
    """Show all that a module says of itself."""
    output = Output(as_json=as_json)
    found = options.open_zoo(zoo).get(module)
    facts = _facts(found)
    output.json(facts)
    for name, value in facts.items():
        output.say(f"{name:12} {_short(value)}")


@app.command("add", epilog="Example:  transfer zoo add ./adapters/* --backbone ./my-bert --category sentiment")
def add(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders: checkpoints of PEFT, AdapterHub or OpenDelta, or modules that were exported."),
    ],
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="What the checkpoints were trained on.")
    ] = None,
    kind: options.Kind = "auto",
    task: Annotated[str | None, typer.Option("--task", help="Source task; else the name of the folder.")] = None,
    category: Annotated[str, typer.Option("--category", help="Of the source task.")] = "unknown",
    license: Annotated[str, typer.Option("--license", help="Of the source task's data.")] = "unknown",
    signature: Annotated[
        str | None,
        typer.Option(
            "--signature", metavar="TASK", help="The source task, by name or path: its part of the signature."
        ),
    ] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin files too: tensors and nothing else.")
    ] = False,
    zoo: options.OwnZoo = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add checkpoints to your zoo. Names and shapes are held against the backbone; task heads are dropped."""
    from transfer.errors import ConfigError
    from transfer.importing import import_checkpoint
    from transfer.tasks import load_task

    if len(folders) > 1 and (task or signature):
        raise ConfigError("--task and --signature are for one folder", found=f"{len(folders)} folders")
    output = Output(as_json=as_json, quiet=quiet)
    store = _own(zoo)
    loaded = None if backbone is None else options.read_backbone(backbone, kind, "auto", 128)
    examples = None if signature is None else load_task(signature)
    # All are read before the first is stored: what is wrong with one of them must not leave the others half done.
    read = [
        (folder, import_checkpoint(folder, loaded, task, category, license, examples, allow_pickle))
        for folder in folders
    ]
    added = []
    for folder, imported in read:
        before = imported.module.id in store
        stored = store.add(imported.module)
        if before:
            lacks = sorted(set(imported.module.signature.holds) - set(stored.signature.holds))
            more = f", without {', '.join(lacks)}: transfer zoo rm {stored.id} first" if lacks else ""
            output.say(f"{stored.id}  from {folder} was there already{more}")
            continue
        added.append(stored.id)
        output.say(f"{stored.id}  from {folder}")
        for note in imported.notes:
            output.say(f"  note: {note}")
    output.json({"added": added})
    output.say(f"{len(added)} modules added; {len(store)} in {store.path}")


@app.command("build", epilog="Example:  transfer zoo build --tasks ./tasks --methods lora,adapter --out ./my-zoo")
def build(
    tasks: Annotated[Path, typer.Option("--tasks", help="Folder with a task folder each.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The zoo; what is finished in it is not done again.")],
    methods: Annotated[str, typer.Option("--methods", help=f"Of {options.METHOD_NAMES}.")] = "lora,adapter,prefix",
    only: Annotated[str | None, typer.Option("--only", help="Only these tasks: a,b.")] = None,
    most_tasks: Annotated[int | None, typer.Option("--most-tasks", help="Tasks kept, the clearest.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps a module; else 160.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Examples a step.")] = None,
    any_licence: Annotated[
        bool, typer.Option("--any-licence", help="Also tasks whose licence forbids commercial use.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; else 1 with a GPU, up to 4 without.")
    ] = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.MaxLength = 128,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a module for each task and method, keep those that clearly help, and say which do not."""
    import dataclasses

    from transfer.building import BuildSettings, build_zoo
    from transfer.building.reporting import summarize

    output = Output(as_json=as_json, quiet=quiet)
    given = {name: value for name, value in (("steps", steps), ("batch_size", batch_size)) if value is not None}
    settings = BuildSettings(
        backbone=backbone,
        kind=kind,
        max_length=max_length,
        precision=precision,
        methods=tuple(options.split_names(methods) or ()),
        most_tasks=most_tasks,
        commercial=not any_licence,
    )
    settings = dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, seed=seed, **given))
    with output.working():
        built = build_zoo(tasks, out, settings, options.split_names(only), workers, output.say)
    report = summarize(built, settings)
    output.json(report)
    output.say(f"{len(built.kept)} modules kept, {len(built.left_out)} left out; why is in {out / 'build.json'}")
    for category in report["empty_categories"]:
        output.say(f"no module of the category {category} passed")


@app.command("verify", epilog="Example:  transfer zoo verify --zoo ./my-zoo")
def verify(zoo: options.ZooFolder = None, as_json: options.Json = False) -> None:
    """Read everything and hold it against cards and checksums; exit code 1 when something is wrong."""
    output = Output(as_json=as_json)
    with output.working():
        problems = [problem for part in options.zoos(zoo) for problem in part.verify()]
    output.json([str(problem) for problem in problems])
    for problem in problems:
        output.say(str(problem))
    unread = _unreadable(zoo)  # each of them is among the problems
    checked = sum(len(part) for part in options.zoos(zoo)) + unread
    cannot = f", {unread} of them cannot be read" if unread else ""
    output.say(f"{_count(checked, 'module')} checked{cannot}; {_count(len(problems), 'problem')}")
    if problems:
        raise typer.Exit(1)


@app.command("rm", epilog="Example:  transfer zoo rm trec-lora-1a2b3c4d")
def rm(
    modules: Annotated[list[str], typer.Argument(metavar="ID...", help="As `transfer zoo ls` prints them.")],
    zoo: options.OwnZoo = None,
    quiet: options.Quiet = False,
) -> None:
    """Remove modules from your zoo; the starter zoo stays as it is."""
    output = Output(quiet=quiet)
    store = _own(zoo)
    for module in modules:
        store.remove(module)
        output.say(f"removed {module}")


@app.command(
    "export",
    epilog="""\b
Examples:
  transfer zoo export trec-lora-1a2b3c4d ./trec-lora
  transfer zoo export trec-lora-1a2b3c4d --merged --to ./trec-model
  transfer zoo export trec-adapter-5e6f7a8b --format adapterhub --to ./trec-adapter
  transfer zoo export trec-sora-9c0d1e2f --prune --to ./trec-lora""",
)
def export(
    module: ModuleId,
    folder: Annotated[Path | None, typer.Argument(help="To write to; must not be there yet.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="The same, as an option.")] = None,
    signature: Annotated[
        bool,
        typer.Option("--signature/--no-signature", help="With the embeddings of examples, which tell of the data."),
    ] = True,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a plain model: the backbone with the module in its weights.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="SoRA: write the plain LoRA of the ranks left, which PEFT loads.")
    ] = False,
    format: Annotated[
        str | None, typer.Option("--format", help="Write a checkpoint of another library: adapterhub, opendelta, peft.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="With --merged: what to merge into; else as on the card.")
    ] = None,
    kind: options.Kind = "auto",
    force: options.Force = False,
    zoo: options.ZooFolder = None,
    quiet: options.Quiet = False,
) -> None:
    """Copy a module out: `peft.PeftModel.from_pretrained` reads the folder of a LoRA, prefix or soft prompt.

    With --merged a whole model is written, with its tokenizer, that `transformers` loads by itself. Modules of LoRA,
    SoRA and BitFit can be merged. With --format the folder is what that library would have written, without our card;
    with --prune a SoRA is written as a LoRA first, so PEFT and its format take it.
    """
    from transfer.errors import ConfigError

    output = Output(quiet=quiet)
    target = folder if to is None else to
    if target is None or (folder is not None and to is not None):
        raise ConfigError(
            "export needs one folder to write to", hint=f"transfer zoo export {shlex.quote(module)} --to FOLDER"
        )
    if format is not None and (merged or not signature):
        raise ConfigError("--format writes a checkpoint alone", hint="leave out --merged and --no-signature")
    if merged and prune:
        raise ConfigError("--merged folds the gates of a SoRA into the weights", hint="leave out --prune")
    if backbone is not None and not merged:
        raise ConfigError("--backbone goes with --merged", hint="leave it out: a module alone needs no backbone")
    target = target.expanduser()
    found = options.open_zoo(zoo).get(module)
    if prune:
        from transfer.deltas.pruning import prune_module

        found = prune_module(found)
    if merged:
        from transfer.exporting import export_merged

        known = found.card.provenance.get("kind")
        kind = known if kind == "auto" and isinstance(known, str) else kind
        with output.working():
            loaded = options.read_backbone(backbone or found.card.backbone, kind, "fp32", 128)
            export_merged(found, target, loaded, force)
    elif format is not None:
        from transfer.exporting import export_as

        export_as(found, target, format)
    else:
        from zoo.writing import export_module

        export_module(found, target, signature)
    output.say(f"wrote {target}")


def _unreadable(folder: Path | None) -> int:
    """Folders in the zoos that hold no module that can be read, and so are in no listing."""
    return sum(len(part.unreadable()) for part in options.zoos(folder))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _facts(module: Any) -> dict[str, Any]:
    return {"id": module.id, **module.card.as_dict()}


def _accuracy(metrics: Any) -> float | None:
    return metrics.get("accuracy") if isinstance(metrics, dict) else None


def _untrained(metrics: dict[str, Any]) -> float | None:
    found = metrics.get("untrained", {})
    return _accuracy(found.get("test")) if isinstance(found, dict) else None


def _short(value: Any) -> str:
    text = ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 400 else f"{text[:397]}..."
