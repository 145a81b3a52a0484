"""`transfer zoo`: your modules."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transfer.cli import export, options
from transfer.cli.output import Output
from transfer.cli.places import expanded

if TYPE_CHECKING:
    from zoo import Module, Zoo
    from zoo.catalog import Entry
    from zoo.verify import Problem

app = typer.Typer(
    no_args_is_help=True, help="Your modules: ls, show, add, build, verify, rm, export.", rich_markup_mode=None
)


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
    view = options.open_zoo(zoo)
    found = view.find(task=task, method=method, backbone=named, category=category)
    output.json([_facts(module) for module in found])
    if not found:
        asked = {"task": task, "method": method, "backbone": named, "category": category}
        for line in _lacking(view.entries(), asked):
            output.say(line)
    rows = []
    for module in found:
        metrics = module.card.metrics
        rows.append((module.id, module.card.category, _accuracy(metrics.get("test")), _untrained(metrics)))
    if found:
        output.table(("module", "category", "test", "untrained"), rows, flexible="module")
        output.say(f"{_count(len(found), 'module')}; test and untrained are accuracies on the module's own task")
    if unread := _unreadable(zoo):
        again = "transfer zoo verify" if zoo is None else f"transfer zoo verify --zoo {shlex.quote(str(zoo))}"
        output.path(f"{_count(unread, 'folder')} cannot be read: {again}")
    if output.quiet and not as_json:
        for module in found:
            output.result(module.id)


@app.command("show", epilog="Example:  transfer zoo show trec-lora-1a2b3c4d")
def show(
    module: options.ModuleId, zoo: options.ZooFolder = None, as_json: options.Json = False, quiet: options.Quiet = False
) -> None:
    """Show all that a module says of itself."""
    output = Output(as_json=as_json, quiet=quiet)
    found = options.open_zoo(zoo).get(module)
    facts = _facts(found)
    output.json(facts)
    for name, value in facts.items():
        output.say(f"{name:12} {_short(value)}")
    if quiet:
        output.result(found.id)


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
    license: Annotated[str, typer.Option("--license", "--licence", help="Of the source task's data.")] = "unknown",
    signature: Annotated[
        str | None,
        typer.Option(
            "--signature", metavar="TASK", help="Source task, by name or path, to make its part of the signature from."
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
            output.say(f"{stored.id}  from {folder} was there already")
            for line in _left(imported.module, stored, store.path):
                output.say(f"  note: {line}")
            continue
        added.append(stored.id)
        output.say(f"{stored.id}  from {folder}")
        for note in imported.notes:
            output.say(f"  note: {note}")
    output.json({"added": added})
    output.say(f"{_count(len(added), 'module')} added; {len(store)} in {store.path}")
    if quiet:
        for module_id in added:
            output.result(module_id)


@app.command("build", epilog="Example:  transfer zoo build --tasks ./tasks --methods lora,adapter --out ./my-zoo")
def build(
    tasks: Annotated[Path, typer.Option("--tasks", callback=expanded, help="Folder with a task folder each.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", callback=expanded, help="The zoo; what is finished in it is not done again.")
    ],
    methods: Annotated[str, typer.Option("--methods", help=f"Of {options.METHOD_NAMES}.")] = "lora,adapter,prefix",
    only: Annotated[str | None, typer.Option("--only", help="Only these tasks: a,b.")] = None,
    most_tasks: Annotated[
        int | None, typer.Option("--most-tasks", help="Keep at most so many tasks, the clearest.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps a module; else 160.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Examples a step.")] = None,
    any_licence: Annotated[
        bool, typer.Option("--any-licence", "--any-license", help="Also tasks whose licence forbids commercial use.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; else 1 with a GPU, up to 4 without.")
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
    if quiet:
        for module_id in built.kept:
            output.result(module_id)
    if not built.records:
        from transfer.errors import DataError

        name, why = next(iter(built.left_out.items()))
        hint = f"{out / 'build.json'} has all reasons"
        raise DataError("no task could be trained on", found=f"{name}: {why}", hint=hint)


@app.command("verify", epilog="Example:  transfer zoo verify --zoo ./my-zoo")
def verify(zoo: options.ZooFolder = None, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Read everything and hold it against cards and checksums; exit code 1 when something is wrong."""
    from transfer.errors import ConfigError

    output = Output(as_json=as_json, quiet=quiet)
    if zoo is not None and not zoo.expanduser().is_dir():
        raise ConfigError(f"there is no zoo {zoo}", hint="the folder that `transfer zoo add` or `build` wrote to")
    with output.working():
        problems = [problem for part in options.zoos(zoo) for problem in (*part.verify(), *_unusable(part))]
    output.json([str(problem) for problem in problems])
    for problem in problems:
        output.say(str(problem))
        if quiet:
            output.result(str(problem))
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
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove modules from your zoo; the starter zoo stays as it is."""
    output = Output(as_json=as_json, quiet=quiet)
    store = _own(zoo)
    modules = list(dict.fromkeys(modules))
    for module in modules:  # all of them, before the first is gone
        store.check_there(module)
    for module in modules:
        store.remove(module)
        output.say(f"removed {module}")
    output.json({"removed": modules})


app.command("export", epilog=export.EXAMPLES)(export.export)


def _left(given: Module, stored: Module, zoo: Path) -> list[str]:
    """What a module that is stored already says otherwise than the one that was given, and lacks of it."""
    again = f"transfer zoo rm {stored.id} --zoo {shlex.quote(str(zoo))} first, to have it otherwise"
    names = ("license", "category", "backbone")
    pairs = [(name, getattr(stored.card, name), getattr(given.card, name)) for name in names]
    lines = [f"its {name} stays {there!r}, not {here!r}" for name, there, here in pairs if there != here]
    if lacks := sorted(set(given.signature.holds) - set(stored.signature.holds)):
        lines.append(f"it stays without {', '.join(lacks)}")
    return [*lines, again] if lines else []


def _lacking(entries: Sequence[Entry], asked: Mapping[str, str | None]) -> list[str]:
    """Of what was asked for, what no module has, each with what there is."""
    lines = []
    for name, value in asked.items():
        there = sorted({getattr(entry, name) for entry in entries})
        if value is not None and value not in there:
            lines.append(f"no module of the {name} {value!r}; there are {', '.join(there) or 'none'}")
    return lines or ["no module has all of this at once"]


def _unusable(zoo: Zoo) -> list[Problem]:
    """Modules whose settings no method takes; the zoo itself knows no methods."""
    from transfer.errors import TransferError
    from transfer.similarity.switching import method_of
    from zoo.verify import Problem

    found = []
    for module in zoo:
        try:
            method_of(module)
        except TransferError as error:
            found.append(Problem(f"modules/{module.id}", " ".join(str(error).split())))
    return found


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
