"""`transfer`: the commands, and what becomes of errors."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Iterator

import typer

from transfer.cli import bench, compare, evaluate, finetune, init, inspect, predict, score, tasks, zoo
from transfer.cli.output import show_error
from zoo.errors import ExplainedError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="A head start for a new NLP task from the PEFT modules one already has.",
    epilog="Begin with:  transfer init --target sentiment --method lora --source sample",
)
app.command("init", epilog=init.EXAMPLES)(init.init)
app.command("score", epilog=score.EXAMPLES)(score.score)
app.command("finetune", epilog=finetune.EXAMPLES)(finetune.finetune)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("inspect", epilog=inspect.EXAMPLES)(inspect.inspect)
app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
app.command("bench", epilog=bench.EXAMPLES, context_settings=bench.SETTINGS)(bench.bench)
app.add_typer(tasks.app, name="tasks")
app.add_typer(zoo.app, name="zoo")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"transfer {version('transfer-zoo')}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Entry point of the console script.

    Exit code 0, 1 for an explained error, 2 for a wrong call, 130 when it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console or a file that is not UTF-8 loses no result
            stream.reconfigure(errors="backslashreplace")
    with _noting_interrupts() as interrupted:
        try:
            app(prog_name="transfer")
        except ImportError:
            if interrupted.is_set():  # libraries that are being imported take an interrupt for a module that is missing
                print("interrupted", file=sys.stderr)
                sys.exit(130)
            raise
        except ExplainedError as error:
            show_error(error)
            sys.exit(1)
        except OSError as error:  # a full disk, a folder that may not be written
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[threading.Event]:
    """Set when the user interrupts inside the block, which goes on as ever."""
    seen = threading.Event()

    def note(number: int, frame: object) -> None:
        seen.set()
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    mine = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if mine:
        signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)
