"""`transfer predict`: answers and probabilities for the rows of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output
from transfer.cli.places import check_file, expanded

EXAMPLES = """\b
Examples:
  transfer predict --file new.csv --delta reviews-tuned --out answers.jsonl
  transfer predict --file new.csv --delta-column module --choices bad,good"""


def predict(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="Rows: .jsonl, .csv, .tsv or .parquet; labels not needed.")
    ],
    delta: Annotated[
        str | None, typer.Option("--delta", "-d", help="Folder or module id; else the bare backbone.")
    ] = None,
    delta_column: Annotated[
        str | None, typer.Option("--delta-column", help="Column that names the delta of each row; blank is none.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=expanded, help="File of the answers (.jsonl); else printed.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of a file that is there.")] = False,
    zoo: options.ZooFolder = None,
    input_column: options.InputColumn = None,
    choices: options.Choices = None,
    template: options.Template = None,
    backbone: options.BackboneName = "embedded",
    kind: options.Kind = "auto",
    precision: options.Precision = "auto",
    max_length: options.TrainedLength = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Answer every row of FILE with the most probable of its choices."""
    import json

    from transfer.errors import ConfigError, DataError
    from transfer.predicting import predict as answer
    from transfer.resolving import load_start, trained_fields, trained_length
    from transfer.tasks import load_rows

    if delta is not None and delta_column is not None:
        raise ConfigError("--delta and --delta-column exclude each other", hint="leave out one of them")
    output = Output(as_json=as_json, quiet=quiet)
    if out is not None:
        check_file(out, file, overwrite)
    opened = options.open_zoo(zoo)
    starts = {} if delta is None else {delta: load_start(delta, opened)}
    rows, fields, notes, names = load_rows(
        file,
        input_column=input_column,
        choices=options.split_choices(choices),
        template=template,
        delta_column=delta_column,
        trained="" if delta is None else starts[delta].template,
    )
    starts |= {name: load_start(name, opened) for name in dict.fromkeys(names) if name is not None}
    answering = [None if name is None else starts[name] for name in names] if delta_column is not None else None
    for note in notes:
        output.aside(f"note: {note}")  # the answers have standard output to themselves
    start = None if delta is None else starts[delta]
    fields = trained_fields(starts.values(), [row["input"] for row in rows]) or fields
    # What a delta was trained to choose from, for rows that bring no choices of their own.
    rows = [
        {"choices": own.choices, **row} if own is not None and own.choices else row
        for row, own in zip(rows, answering or [start] * len(rows), strict=True)
    ]
    loaded = options.read_backbone(backbone, kind, precision, max_length or trained_length(starts.values()))
    if loaded.kind == "encoder" and rows and not any(row.get("choices") for row in rows):
        raise DataError(
            f"no choices to answer {file} with, and {backbone!r} cannot write answers of its own",
            hint="--choices no,yes, or --delta of a module that was trained to choose",
        )
    with output.working():
        answers = answer(rows, loaded, start, fields, answering)
    lines = [row.to_json() for row in answers]
    if out is not None:
        from zoo.files import write_whole

        write_whole(
            out.resolve(),  # of a link the file that it leads to
            "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines).encode(),
        )
        output.json({"rows": len(lines), "out": str(out)})
        output.say(f"{len(lines)} answers in {out}")
        return
    output.json(lines)
    if not as_json:
        for line in lines:
            shares = line.get("probabilities")
            print(line["answer"] if not shares else f"{line['answer']}\t{max(shares):.3f}")
