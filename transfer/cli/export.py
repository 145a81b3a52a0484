"""`transfer zoo export`: a module as a folder for others."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

EXAMPLES = """\b
Examples:
  transfer zoo export trec-lora-1a2b3c4d ./trec-lora
  transfer zoo export trec-lora-1a2b3c4d --merged --to ./trec-model
  transfer zoo export trec-adapter-5e6f7a8b --format adapterhub --to ./trec
  transfer zoo export trec-sora-9c0d1e2f --prune --to ./trec-lora"""


def export(
    module: options.ModuleId,
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
        str | None,
        typer.Option("--format", help="A checkpoint alone, as of: adapterhub, opendelta, peft, or native, our own."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="With --merged: what to merge into; else as on the card.")
    ] = None,
    kind: options.Kind = "auto",
    force: options.Force = False,
    zoo: options.ZooFolder = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy a module out: `peft.PeftModel.from_pretrained` reads the folder of a LoRA, prefix or soft prompt.

    With --merged a whole model is written, with its tokenizer, that `transformers` loads by itself. Modules of LoRA,
    SoRA and BitFit can be merged. With --format the folder is what that library would have written, without our card;
    with --prune a SoRA is written as a LoRA first, so PEFT and its format take it.
    """
    from transfer.errors import ConfigError

    output = Output(as_json=as_json, quiet=quiet)
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
    if (kind != "auto" or force) and not merged:
        named = "--force" if force else "--kind"
        raise ConfigError(f"{named} goes with --merged", hint="leave it out: a module alone needs no backbone")
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
    output.json({"module": found.id, "folder": str(target)})
    output.say(f"wrote {target}")
