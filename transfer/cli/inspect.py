"""`transfer inspect`: what a model is made of, and what a delta would add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli import options
from transfer.cli.output import Output

if TYPE_CHECKING:
    from torch import nn

    from transfer.deltas import DeltaMethod

EXAMPLES = """\b
Examples:
  transfer inspect embedded --delta lora --where attn.q,attn.v --set rank=16
  transfer inspect ./my-model --depth 2
  transfer inspect embedded --web"""


def inspect(
    model: Annotated[str, typer.Argument(help="embedded, a folder (config.json is enough) or a Hub id.")] = "embedded",
    delta: Annotated[
        str | None,
        typer.Option("--delta", "-d", help="Shown as if attached: a method (lora), or a folder or module id."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", help="Its places: a,b or again and again; else the method's own."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Left out of them: a,b.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method: rank=16.")
    ] = None,
    depth: Annotated[int | None, typer.Option("--depth", min=0, help="Levels below the model.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Fold nothing, and show what has no parameters too.")
    ] = False,
    web: Annotated[bool, typer.Option("--web", help="A page on this machine to click places and copy them.")] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="With --web: print the address, open no browser.")] = False,
    kind: options.Kind = "auto",
    zoo: options.ZooFolder = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the modules of MODEL, their common names and parameters, and what a delta would add. Reads no weights."""
    from transfer.backbones.outline import load_outline
    from transfer.errors import ConfigError

    output = Output(as_json=as_json, quiet=quiet)
    if web and as_json:
        raise ConfigError("--web shows a page and --json prints a document", hint="one of them")
    if web and (depth is not None or everything):
        raise ConfigError("the page of --web opens and folds by itself", hint="leave out --depth and --all")
    if no_open and not web:
        raise ConfigError("--no-open says how to begin with --web", hint="add --web")
    outline = load_outline(model, kind)
    method = _method(delta, where or [], exclude or [], settings or [], zoo)
    if web:
        _serve(output, outline, model, method, not no_open)
        return
    from transfer.deltas import structure
    from transfer.deltas.tree_text import Look
    from transfer.inspecting import document

    seen = structure(outline, method)
    if as_json:
        output.json(document(seen, model, method, depth))
    output.tree(seen, Look(depth=depth, everything=everything))
    if quiet:
        counts = seen.tree.counts
        output.result(f"{model}\t{seen.tree.kind}\t{counts.backbone}\t{counts.delta}")


def _method(
    delta: str | None, where: list[str], exclude: list[str], settings: list[str], zoo: options.ZooFolder
) -> DeltaMethod | None:
    """The delta that the options describe: a method by name, or that of something stored."""
    from transfer.deltas import METHODS
    from transfer.errors import ConfigError
    from transfer.inspecting import choose

    chosen = bool(where or exclude or settings)
    if delta is None:
        if chosen:
            raise ConfigError("--where, --exclude and --set say how a delta goes on", hint="--delta lora")
        return None
    if delta in METHODS.names():
        pairs = [text.partition("=") for text in settings]
        wrong = next((text for text, (_, equals, _) in zip(settings, pairs, strict=True) if not equals), None)
        if wrong is not None:
            raise ConfigError(f"cannot read --set {wrong}", hint="--set rank=16")
        return choose(delta, _names(where), _names(exclude), {name: value for name, _, value in pairs})
    if chosen:
        raise ConfigError(
            f"--where, --exclude and --set go with the name of a method, and {delta!r} is none",
            found=f"methods: {', '.join(METHODS.names())}",
            hint="--delta lora; what is stored has places and settings of its own",
        )
    from transfer.errors import UnknownNameError
    from transfer.resolving import load_start

    try:
        return load_start(delta, options.open_zoo(zoo)).delta.method
    except UnknownNameError as error:
        raise UnknownNameError(
            f"no method, folder or module named {delta!r}",
            found=f"methods: {', '.join(METHODS.names())}",
            hint="--delta lora, or an id of `transfer zoo ls`",
        ) from error


def _names(given: list[str]) -> list[str]:
    """`a,b` as two names; an expression is one, commas and all."""
    return [name for text in given for name in ([text] if text.startswith("re:") else options.split_names(text) or [])]


def _serve(output: Output, outline: nn.Module, name: str, method: DeltaMethod | None, browser: bool) -> None:
    """The page, until ctrl-C."""
    from transfer.inspecting import Pages, Server

    with Server(Pages(outline, name, method)) as server:
        output.say("A page to choose the places of a delta, for this machine alone. ctrl-C ends it.")
        print(server.address, flush=True)
        if browser:
            server.open_browser()
        server.serve()
    output.say("The page is closed.")
