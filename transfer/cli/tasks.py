"""`transfer tasks`: which tasks are in reach, and what one looks like."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

app = typer.Typer(no_args_is_help=True, help="Tasks in reach: ls, show.", rich_markup_mode=None)


@app.command("ls", epilog="Example:  transfer tasks ls --category nli")
def ls(
    category: Annotated[str | None, typer.Option("--category", help="Only this category.")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the tasks known by name, and where each would come from."""
    from transfer.tasks import list_tasks

    known = list_tasks()
    rows = [row for row in known if category in (None, row.category)]
    out = Output(as_json=as_json, quiet=quiet)
    out.json([asdict(row) for row in rows])
    if not rows:
        there = ", ".join(sorted({row.category for row in known}))
        out.say(f"no task of the category {category!r}; there are {there}")
        return
    out.table(
        ("task", "category", "from", "train/dev/test"),
        [
            (
                row.name,
                row.category,
                ", ".join(row.where),
                "/".join(str(n) for n in (row.sizes or {}).values()) or "-",
            )
            for row in rows
        ],
    )
    out.say(f"{len(rows)} tasks. A file works too: transfer tasks show reviews.csv")
    if quiet:
        for row in rows:
            out.result(row.name)


@app.command("show", epilog="Example:  transfer tasks show boolq --source sample")
def show(
    target: Annotated[str, typer.Argument(help="A name or a path.")],
    rows: Annotated[int, typer.Option("--rows", min=0, help="Training rows to print.")] = 3,
    source: options.SourceName = None,
    input_column: options.InputColumn = None,
    label_column: options.LabelColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show where a task comes from, its sizes, its answers and some rows: what training would see."""
    out = Output(as_json=as_json, quiet=quiet)
    task = options.read_task(target, None, 42, source, input_column, label_column, choices, template)
    first = [dict(row) for row in task.train.select(range(min(rows, len(task.train))))]
    facts = {
        "name": task.name,
        "kind": task.kind,
        "category": task.category,
        "metric": task.metric,
        "source": task.source,
        "license": task.license,
        "sizes": task.sizes,
        "labels": task.labels,
        "fields": list(task.fields),
        "majority": task.majority,
        "notes": list(task.notes),
        "rows": first,
    }
    out.json(facts)
    sizes = "/".join(str(n) for n in task.sizes.values())
    if quiet:
        out.result(f"{task.name}\t{task.kind}\t{sizes}\t{task.source}")
    out.say(f"{task.name}: {task.kind}, {task.category}; train/dev/test {sizes}; {task.metric}")
    out.path(f"from     {task.source}")
    out.say(f"licence  {task.license}")
    if task.labels is not None:
        out.say(f"answers  {', '.join(task.labels)} (most frequent in test: {task.majority:.1%})")
    if task.fields:
        out.say(f"fields   {', '.join(task.fields)}")
    for note in task.notes:
        out.say(f"note     {note}")
    for row in first:
        out.say()
        out.say(row["input"])
        out.say(f"-> {row['choices'][row['label']] if 'choices' in row else row['output']}")
