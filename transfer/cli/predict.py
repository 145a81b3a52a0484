"""`transfer predict`: answers and probabilities for the rows of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

EXAMPLES = """\b
Examples:
  transfer predict --file new.csv --choices bad,good --delta reviews-tuned --out answers.jsonl"""


def predict(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="Rows: .jsonl, .csv, .tsv or .parquet; labels not needed.")
    ],
    delta: Annotated[
        str | None, typer.Option("--delta", "-d", help="Folder or module id; else the bare backbone.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File of the answers (.jsonl); else printed.")] = None,
    zoo: options.ZooFolder = None,
    input_column: options.InputColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.MaxLength = 128,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer every row of FILE with the most probable of its choices."""
    import json

    from transfer.predicting import predict as answer
    from transfer.resolving import load_start
    from transfer.tasks import load_rows

    output = Output(as_json=as_json, quiet=quiet)
    start = None if delta is None else load_start(delta, options.open_zoo(zoo))
    rows, fields, notes = load_rows(
        file, input_column=input_column, choices=options.split_names(choices), template=template
    )
    for note in notes:
        output.aside(f"note: {note}")  # the answers have standard output to themselves
    if start is not None and start.choices:
        # What the delta was trained to choose from, for rows that bring no choices of their own.
        rows = [{"choices": start.choices, **row} for row in rows]
    loaded = options.read_backbone(backbone, kind, precision, max_length)
    with output.working():
        answers = answer(rows, loaded, start, fields)
    lines = [row.to_json() for row in answers]
    if out is not None:
        from zoo.files import write_whole

        write_whole(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
        output.json({"rows": len(lines), "out": str(out)})
        output.say(f"{len(lines)} answers in {out}")
        return
    output.json(lines)
    if not as_json:
        for line in lines:
            shares = line.get("probabilities")
            print(line["answer"] if not shares else f"{line['answer']}\t{max(shares):.3f}")
