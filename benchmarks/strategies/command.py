"""The command line that the benchmarks of starts share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import Rows
from benchmarks.strategies.experiment import Experiment
from benchmarks.strategies.rates import KEY

if TYPE_CHECKING:
    from benchmarks.strategies.starts import Recipe


def main(
    folder: Path,
    config: str,
    about: str | None,
    more: Mapping[str, Recipe] | None = None,
    beside: Path | None = None,
    smoke: Callable[[Experiment], Experiment] = Experiment.smoke,
    show: Callable[[list[dict[str, Any]], Experiment], None] | None = None,
) -> None:
    """Run what is missing, or report what is there.

    Args:
        folder: Where the rows are, and the experiment's file.
        config: Name of that file.
        about: Docstring of the benchmark.
        more: Starts beside those that all benchmarks have.
        beside: Rows of another benchmark: what has one there is not run again.
        smoke: Makes a small experiment of the whole.
        show: Prints a report of its own, in place of the tables and pictures of strategies.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=folder / config, help="the experiment: a JSON file")
    parser.add_argument("--out", type=Path, help="rows; results.jsonl beside this file")
    parser.add_argument("--targets", help="only these, such as trec,rte; rows of several files can be joined")
    parser.add_argument("--report", action="store_true", help="print tables and draw pictures of the rows")
    parser.add_argument("--smoke", action="store_true", help="one target, a few steps: a minute")
    options = parser.parse_args()
    experiment = Experiment.read(options.config)
    own = options.config.resolve() == (folder / config).resolve()
    name = "smoke" if options.smoke else "results" if own else options.config.stem
    path = options.out or folder / f"{name}.jsonl"
    if options.smoke:
        experiment = smoke(experiment)
        if not options.report:
            path.unlink(missing_ok=True)  # rows of an earlier one would leave nothing to run
    rows = Rows(path, KEY)
    if beside is not None and not options.smoke:
        rows.join(Rows(beside, KEY))
    if options.report and show is not None:
        show(rows.rows, experiment)
        return
    if options.report:
        from benchmarks.strategies.report import report

        report(experiment.own(rows.rows), rows.path.parent)
        return
    from benchmarks.strategies.running import Runner
    from transfer.backbones import load_backbone

    if options.targets:
        experiment = experiment.only(options.targets.split(","))
    Runner(rows, experiment, load_backbone(), more=more or {}).run()
