"""`transfer compare`: results of fine-tuning side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

EXAMPLES = """\b
Example:
  transfer compare sentiment-lora-tuned sentiment-lora-scratch"""


def compare(
    folders: Annotated[list[Path], typer.Argument(help="What `transfer finetune` wrote.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what the results in FOLDERS reached on test, with 95% intervals. Nothing is run again."""
    from transfer.errors import DataError
    from transfer.evaluation import wilson
    from zoo import Module

    output = Output(as_json=as_json, quiet=quiet)
    rows = []
    for folder in folders:
        card = Module.load(folder).card
        metrics, sizes = card.metrics.get("test"), card.data.get("sizes")
        found = metrics.get("accuracy") if isinstance(metrics, dict) else None
        n = sizes.get("test") if isinstance(sizes, dict) else None
        if not isinstance(n, int) or n < 1 or not isinstance(found, int | float) or not 0 <= found <= 1:
            raise DataError(
                f"{folder} holds no accuracy on test",
                found=", ".join(card.metrics) or "no metrics",
                hint="transfer evaluate measures it",
            )
        accuracy = float(found)
        low, high = wilson(round(accuracy * n), n)
        begun = str(card.provenance.get("started_from", "-"))
        rows.append((str(folder), card.task, begun, accuracy, [low, high], n))
    names = ("result", "task", "from", "accuracy", "interval_95", "n")
    output.json([dict(zip(names, row, strict=True)) for row in rows])
    # Last parts of paths and sizes by task keep it within 80 columns; all of it is in the JSON.
    ends = [Path(row[0]).name for row in rows]
    shown = [
        (end if ends.count(end) == 1 else folder, task, Path(begun).name, accuracy, "{:.3f} to {:.3f}".format(*edges))
        for end, (folder, task, begun, accuracy, edges, _) in zip(ends, rows, strict=True)
    ]
    output.table(("result", "task", "from", "accuracy", "95% interval"), shown, flexible="from")
    sizes = sorted({(task, n) for _, task, _, _, _, n in rows})
    output.say("test examples: " + ", ".join(f"{n} of {task}" for task, n in sizes))
    if len(tasks := {row[1] for row in rows}) > 1:
        output.say(f"note: results on {len(tasks)} tasks; accuracies on different tasks say nothing of each other")
    if output.quiet and not as_json:
        for row in rows:
            output.result(f"{row[0]}\t{row[3]:.4f}")
