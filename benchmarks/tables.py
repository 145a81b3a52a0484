"""Writes the tables of README.md and docs/results.md from the rows that are checked in.

    python -m benchmarks.tables           writes them
    python -m benchmarks.tables --check   exits with 1 when a page shows anything else

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.estimators import matrix, report
from benchmarks.estimators import run as estimators
from benchmarks.markdown import NOTHING, markdown, without_empty
from benchmarks.peers import report as peers
from benchmarks.rows import Rows
from benchmarks.sparsity import run as sparsity
from benchmarks.sparsity import table as sparsity_table
from benchmarks.speed import deltas_table, merging, serving
from benchmarks.speed import init as speed
from benchmarks.stopping import run as stopping
from benchmarks.stopping import table as stopping_table
from benchmarks.strategies import guarding, rates
from benchmarks.strategies import report as starts
from benchmarks.strategies.experiment import Experiment
from benchmarks.strategies.rates import KEY

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/results.md")
NAMED = ("uniform", "gradient:first-order", "learned", "auto")
EXPERIMENTS = {"ensembling": "development.json", "strategies": "report.json"}
MARK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def of_speed() -> str:
    """Seconds of `transfer init`, a row per family of estimators."""
    rows = Rows(speed.HERE / "init.jsonl", ("target", "method", "estimator")).rows
    seconds = {(row["estimator"], row["method"]): f"{row['seconds']:.0f} s ({row['verdict']})" for row in rows}
    families = dict.fromkeys(row["estimator"] for row in rows)
    table = [[family, *(seconds.get((family, method), "-") for method in speed.METHODS)] for family in families]
    return markdown(["estimator", *speed.METHODS], table)


def of_deltas() -> str:
    """Training step and forward of ours over those of PEFT."""
    return markdown(deltas_table.HEAD, deltas_table.table_rows(_delta_rows()))


def of_attaching() -> str:
    """Milliseconds to put one more module on a model."""
    return markdown(deltas_table.ATTACH_HEAD, deltas_table.attach_rows(_delta_rows()))


def _delta_rows() -> list[dict[str, Any]]:
    return Rows(deltas_table.HERE / "deltas.jsonl", deltas_table.KEY).rows


def of_serving() -> str:
    """Rows a second of batches whose rows use different modules, by each way."""
    rows = [row for row in Rows(serving.HERE / "serving.jsonl", serving.KEY).rows if row["kind"] == "forward"]
    found = {(row["method"], row["modules"], row["way"]): f"{row['rows_per_second']:.0f}" for row in rows}
    ways = ("bare", "mixed", "one by one", "peft")
    table = [
        [method, modules, *(found.get((method, modules, way), "-") for way in ways)]
        for method, modules in dict.fromkeys((row["method"], row["modules"]) for row in rows)
    ]
    return markdown(["method", "modules", *ways], table)


def of_switching() -> str:
    """Milliseconds of going to another module, at the start and at the end of many."""
    rows = [row for row in Rows(serving.HERE / "serving.jsonl", serving.KEY).rows if row["kind"] == "switch"]
    table = [
        [row["method"], row["modules"], row["way"], f"{row['ms_first']:.2f}", f"{row['ms_last']:.2f}"] for row in rows
    ]
    return markdown(["method", "modules", "way", "ms, first ten", "ms, last ten"], table)


def of_merging() -> str:
    """Merging LoRA modules, beside PEFT."""
    rows = Rows(merging.HERE / "merging.jsonl", merging.KEY).rows
    found = {(row["how"], row["modules"], row["library"]): row for row in rows}
    table = []
    for how, n in dict.fromkeys((row["how"], row["modules"]) for row in rows):
        pair = [found.get((how, n, library)) for library in ("transfer", "peft")]
        figures = [
            "-" if row is None else f"{row[name]:.{digits}f}"
            for name, digits in (("seconds", 3), ("from_disk", 2), ("peak_mib", 0))
            for row in pair
        ]
        table.append([how, n, *figures])
    head = [f"{what}, {library}" for what in ("seconds", "from disk", "MiB") for library in ("transfer", "PEFT")]
    return markdown(["rule", "modules", *head], table)


def of_starter() -> str:
    """Every module that was trained for the starter zoo, kept or not."""
    path = ROOT / "zoo" / "starter" / "build.json"
    results = json.loads(path.read_text(encoding="utf-8"))["results"] if path.is_file() else []
    table = []
    for row in sorted(results, key=lambda row: (row["category"], row["task"], row["method"])):
        z = row["z"]
        figures = [row.get(f"{who}test_accuracy") for who in ("", "untrained_", "majority_")]
        shares = ["-" if value is None else f"{value:.3f}" for value in figures]
        least = f"{min(z.values()):.1f}" if z else "-"
        table.append([row["task"], row["category"], row["method"], *shares, least, "yes" if row["kept"] else "no"])
    return markdown(["task", "category", "method", "module", "untrained", "majority", "z", "kept"], table)


def of_peers() -> str:
    """Starts that other libraries make, beside ours."""
    rows = Rows(peers.HERE / "results.jsonl", KEY)
    rows.join(Rows(ROOT / "benchmarks" / "strategies" / "results.jsonl", KEY))
    return peers.page(rows.rows, Experiment.read(peers.HERE / peers.CONFIG))


def of_estimators(method: str, examples: int, steps: int, everywhere: bool = False) -> str:
    """Every ranking against the transfer matrix of modules as they are, or after a short tune."""
    scores = Rows(estimators.HERE / "scores.jsonl", estimators.KEY)
    starts_ = Rows(ROOT / "benchmarks" / "strategies" / "results.jsonl", rates.KEY).rows
    for row in report.of_starts(row for row in starts_ if row["stage"] == "run"):
        if scores.done(**row) is None:
            scores.rows.append(row)
    truth = Rows(matrix.HERE / "matrix.jsonl", matrix.KEY).rows
    return markdown(report.HEAD, report.table_rows(scores.rows, truth, method, examples, steps, everywhere))


def of_heatmap() -> str:
    """The transfer matrix as a picture, where it was drawn."""
    drawn = (matrix.HERE / "heatmap.png").is_file()
    return "![points above the shared start](../benchmarks/estimators/heatmap.png)" if drawn else NOTHING


def of_stopping() -> str:
    """What should choose the step and the learning rate."""
    return markdown(
        stopping_table.HEAD, stopping_table.table_rows(Rows(stopping.HERE / "results.jsonl", stopping.KEY).rows)
    )


def of_sparsity() -> str:
    """SoRA against LoRAs of its first rank and of its last size."""
    rows = sparsity_table.latest(Rows(sparsity.HERE / "results.jsonl", sparsity.KEY).rows)
    return markdown(sparsity_table.HEAD, sparsity_table.table_rows(rows))


def of_sparsity_shrink() -> str:
    """SoRA at each xi of its schedule, and the picture where there is one."""
    rows = sparsity_table.latest(Rows(sparsity.HERE / "results.jsonl", sparsity.KEY).rows)
    table = markdown(sparsity_table.SHRINK_HEAD, sparsity_table.shrink_rows(rows))
    drawn = (sparsity.HERE / "results.png").is_file()
    return f"{table}\n\n![accuracy against parameters kept](../benchmarks/sparsity/results.png)" if drawn else table


def of_starts(benchmark: str, method: str, examples: int) -> str:
    """Every start against scratch, and the picture where there is one."""
    table = _against_scratch(_start_rows(benchmark, method, examples))
    picture = f"benchmarks/{benchmark}/{method}-{examples}.png"
    return f"{table}\n\n![gains over scratch](../{picture})" if (ROOT / picture).is_file() else table


def of_learnable(benchmark: str, method: str, examples: int) -> str:
    """The same, on the targets that can be learned."""
    return _against_scratch(starts.learnable(_start_rows(benchmark, method, examples)))


def _against_scratch(rows: list[dict[str, Any]]) -> str:
    return markdown(*without_empty(starts.HEAD, starts.table_rows(rows)))


def of_step0(benchmark: str, method: str, examples: int) -> str:
    """Every start as it is."""
    return markdown(starts.STEP0_HEAD, starts.step0_rows(_start_rows(benchmark, method, examples)))


def of_held(benchmark: str, method: str, examples: int) -> str:
    """Every start on dev rows of development targets that nothing else sees."""
    return markdown(starts.HELD_HEAD, starts.held_rows(_start_rows(benchmark, method, examples)))


def of_keeping(benchmark: str, method: str, examples: int) -> str:
    """Every way of keeping the head start, with its control."""
    return markdown(starts.KEEP_HEAD, starts.keep_rows(_start_rows(benchmark, method, examples)))


def of_curves(benchmark: str, method: str, examples: int) -> str:
    """Learning curves as a picture, where it was drawn."""
    picture = f"benchmarks/{benchmark}/{method}-{examples}-curves.png"
    return f"![accuracy by step](../{picture})" if (ROOT / picture).is_file() else NOTHING


def of_guard(benchmark: str, method: str, examples: int) -> str:
    """After how many steps dev knows which start is better in the end."""
    return markdown(guarding.HEAD, guarding.guard_rows(_start_rows(benchmark, method, examples)))


def of_targets(benchmark: str, method: str, examples: int) -> str:
    """Each target by itself."""
    lines = starts.target_rows(_start_rows(benchmark, method, examples), NAMED)
    return markdown((*starts.TARGET_HEAD, *NAMED), lines)


def of_categories(benchmark: str, method: str, examples: int) -> str:
    """Gains over scratch by category of the target."""
    lines = starts.category_rows(_start_rows(benchmark, method, examples), NAMED)
    return markdown(("category", "targets", starts.SCRATCH, *NAMED), lines)


def _start_rows(benchmark: str, method: str, examples: int) -> list[dict[str, Any]]:
    folder = ROOT / "benchmarks" / benchmark
    rows = Rows(folder / "results.jsonl", rates.KEY).rows
    return starts.runs(Experiment.read(folder / EXPERIMENTS[benchmark]).own(rows), method, examples)


GROUPS = (*(("lora", examples) for examples in (16, 32, 64, 256)), ("adapter", 64), ("prefix", 64))
RANKED = (("lora", 64, 0), ("lora", 64, 60), ("lora", 16, 0), ("lora", 256, 0), ("adapter", 64, 0), ("prefix", 64, 0))
TABLES: dict[str, Callable[[], str]] = {
    **{
        f"{benchmark}_{what}_{method}_{examples}": partial(table, benchmark, method, examples)
        for what, table in (
            ("starts", of_starts),
            ("learnable", of_learnable),
            ("step0", of_step0),
            ("held", of_held),
            ("keeping", of_keeping),
            ("guard", of_guard),
            ("curves", of_curves),
            ("targets", of_targets),
            ("categories", of_categories),
        )
        for benchmark in EXPERIMENTS
        for method, examples in GROUPS
    },
    "speed": of_speed,
    "deltas": of_deltas,
    "attaching": of_attaching,
    "serving": of_serving,
    "switching": of_switching,
    "merging": of_merging,
    "starter": of_starter,
    "peers": of_peers,
    **{
        f"estimators_{method}_{examples}_{steps}": partial(of_estimators, method, examples, steps)
        for method, examples, steps in RANKED
    },
    "estimators_everywhere": partial(of_estimators, "lora", 64, 0, everywhere=True),
    "heatmap": of_heatmap,
    "stopping": of_stopping,
    "sparsity": of_sparsity,
    "sparsity_shrink": of_sparsity_shrink,
}


def filled(text: str) -> str:
    """The page with its tables as the rows give them."""
    return MARK.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)


def main() -> None:
    """Write or check every page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for name in PAGES:
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if new != text:
            stale.append(name)
            if not options.check:
                page.write_text(new, encoding="utf-8")
    if options.check and stale:
        raise SystemExit(f"tables are not those of the rows in {', '.join(stale)}; run: python -m benchmarks.tables")


if __name__ == "__main__":
    main()
