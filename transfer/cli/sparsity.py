"""Options of `transfer finetune` for SoRA, and what it prints of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transfer.cli.output import Output

if TYPE_CHECKING:
    from transfer.deltas.method import DeltaMethod
    from transfer.finetuning import Finetuned
    from transfer.resolving import Start
    from transfer.training.schedules import XiSchedule

STAGES = 6  # of a schedule with a name, the warm start among them

Xi = Annotated[
    float | None,
    typer.Option("--xi", help="SoRA: what each gate shrinks by at a step; with --schedule the last and largest."),
]
Schedule = Annotated[
    str | None,
    typer.Option("--schedule", help="SoRA: linear, log-linear, exp-linear, or values of xi: 0,1e-4,5e-4."),
]
Stages = Annotated[int | None, typer.Option("--stages", help="Values of xi in a schedule with a name; else 6.")]
StageSteps = Annotated[
    int | None, typer.Option("--stage-steps", help="Steps at each xi after the first; else --steps.")
]
Threshold = Annotated[str | None, typer.Option("--threshold", help="SoRA: soft (the paper's) or published-code.")]
ScaleXi = Annotated[bool, typer.Option("--scale-xi", help="SoRA: multiply xi by the gates' learning rate.")]
GateLearningRate = Annotated[
    float | None, typer.Option("--gate-learning-rate", help="SoRA: of the gates; else --learning-rate.")
]
Penalty = Annotated[float | None, typer.Option("--penalty", help="SoRA: weight of the gates' mean size in the loss.")]
Prune = Annotated[bool, typer.Option("--prune", help="SoRA: save a plain LoRA of the ranks left; --add adds the SoRA.")]
Picture = Annotated[Path | None, typer.Option("--picture", help="Draw the ranks into this file (.png, .svg, .pdf).")]


def read(
    method: str,
    begin: Start | None,
    given: Mapping[str, Any],
    schedule: str | None,
    stages: int | None,
    stage_steps: int | None,
    prune: bool,
    picture: Path | None,
) -> tuple[str | DeltaMethod, Start | None, XiSchedule | None]:
    """(method, start, schedule) with what these options say.

    Args:
        method: Its name.
        begin: The start, if there is one; its method keeps what the options leave out.
        given: Settings of `SoRA`, None where the option was not given.
    Raises:
        ConfigError: another method than SoRA, or values outside their range. PathError: no place for a picture.
    """
    from transfer.errors import ConfigError

    asked = {name: value for name, value in given.items() if value is not None}
    numbers = stages, stage_steps
    if method != "sora":
        if asked or schedule is not None or prune or picture is not None or numbers != (None, None):
            raise ConfigError(
                f"--xi, --schedule, --prune and the like are for SoRA, and the method is {method}", hint="--method sora"
            )
        return method, begin, None
    from dataclasses import replace

    from transfer.deltas.delta import Delta
    from transfer.deltas.sora import SoRA
    from transfer.report.ranks import check_picture
    from transfer.training.schedules import KINDS, XiSchedule

    if picture is not None:
        check_picture(picture)
    if schedule in KINDS and "xi" not in asked:
        raise ConfigError(f"--schedule {schedule} needs its last value", hint=f"--schedule {schedule} --xi 2e-3")
    if schedule is not None and schedule not in KINDS and "xi" in asked:
        raise ConfigError(f"--schedule {schedule} names its values, so --xi says nothing", hint="leave --xi out")
    if schedule is None and numbers != (None, None):
        raise ConfigError("--stages and --stage-steps are for a schedule", hint="--schedule linear --xi 2e-3")
    if schedule is not None and schedule not in KINDS and stages is not None:
        raise ConfigError(f"--schedule {schedule} has as many stages as values", hint="leave --stages out")
    plan = None
    if schedule is not None:
        plan = XiSchedule.parsed(schedule, asked.get("xi", 0.0), STAGES if stages is None else stages, stage_steps)
    if begin is None:
        return SoRA(**asked), None, plan
    chosen = replace(begin.delta.method, **asked)
    return method, replace(begin, delta=Delta(chosen, begin.delta.tensors)), plan


def show(output: Output, result: Finetuned, picture: Path | None) -> None:
    """The stages of a schedule, the ranks by layer, and the picture; nothing for other methods than SoRA."""
    from transfer.deltas.ranks import ranks_of

    if result.delta.method.method != "sora":
        return
    ranks = ranks_of(result.delta)
    if result.sparsified is not None:
        rows = [
            (f"{s.xi:g}", 100 * s.ranks.share, s.dev["loss"], s.dev.get("accuracy"), s.memorisation, s.generalisation)
            for s in result.sparsified.stages
        ]
        output.table(("xi", "kept %", "dev loss", "dev acc.", "memorisation", "generalisation"), rows)
        output.say("memorisation and generalisation: accuracy on train and dev, in percent of that at xi 0")
    output.table(
        ("layer", "ranks kept", "of"),
        [
            ("-" if block is None else str(block), n, sum(p.start for p in ranks.places if p.block == block))
            for block, n in ranks.by_block.items()
        ],
    )
    output.say(f"{ranks.parameters:,} of {ranks.start_parameters:,} parameters kept ({100 * ranks.share:.1f}%)")
    if picture is not None:
        from transfer.report.ranks import draw_ranks

        output.path(f"ranks drawn into {draw_ranks(ranks, picture)}")
