"""Does the start help? Test accuracy after a short tune from several starts, on targets that may be tuned on.

    TRANSFER_TASKS=DIR python -m benchmarks.strategies.run --targets boolq,trec,tweet_offensive

Each row is one run. The learning rate is chosen on dev, at seed 0, from {1/3, 1, 3} times the method's default, twice
per method and target: once for scratch, once on `uniform` for all merged starts. Test is only measured. Rows that are
there are not run again; `python -m benchmarks.strategies.table` makes the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.rows import Rows
from benchmarks.shared_inputs import related
from transfer.backbones import Backbone, load_backbone
from transfer.ensembling import merge, weigh
from transfer.evaluation import evaluate
from transfer.similarity import Target, find_sources, score
from transfer.tasks import Task, load_task
from transfer.training import TuneSettings, tune
from zoo import Module, Zoo
from zoo.tensors import digest

HERE = Path(__file__).parent
GRID = (1 / 3, 1.0, 3.0)
SEEDS = {"lora": (0, 1, 2), "adapter": (0,), "prefix": (0,)}
STARTS = ("scratch", "uniform", "gradient:first-order")
KEY = ("target", "method", "start", "examples", "steps", "seed", "learning_rate_factor", "stage")


class Run:
    """One target, method and seed: its draw of examples, its sources, its starts."""

    def __init__(
        self,
        name: str,
        method: str,
        seed: int,
        examples: int,
        backbone: Backbone,
        measured: dict[str, dict[str, float]] | None = None,
    ) -> None:
        self.task: Task = load_task(name, examples=examples, seed=seed, source="folder")
        self.backbone = backbone
        self.modules: list[Module] = find_sources(Zoo.starter(), backbone, method, exclude=related(name))
        self.target = Target.for_modules(self.task, backbone, self.modules, method, seed)
        self.train = self.target.encoded
        self.dev = backbone.encode(self.task.dev, self.task.fields)
        self.measured = {} if measured is None else measured
        self.tunes: dict[tuple[str, int, float, int], Any] = {}

    def start(self, name: str) -> Mapping[str, Tensor]:
        """The tensors of a start."""
        if name == "scratch":
            return self.target.start
        if name == "uniform":
            weights = {module.id: 1 / len(self.modules) for module in self.modules}
        else:
            weights = weigh(score(self.target, self.modules, self.backbone, self.target.method, name))
        return merge(self.modules, weights).tensors

    def tuned(self, start: Mapping[str, Tensor], steps: int, rate: float, seed: int) -> Any:
        """The last step of a tune, with its dev losses on the way; one that chose the rate is not made again."""
        key = digest(dict(start)), steps, rate, seed
        if key not in self.tunes:
            settings = TuneSettings(steps=steps, learning_rate=rate, seed=seed, eval_every=max(1, steps // 6))
            self.tunes[key] = tune(
                self.backbone,
                self.target.method,
                self.train,
                tensors=start,
                settings=settings,
                dev=self.dev,
                keep="last",
            )
        return self.tunes[key]

    def accuracy(self, tensors: Mapping[str, Tensor] | None) -> dict[str, float]:
        """Test metrics with these tensors, or of the bare backbone; starts that seeds share are measured once."""
        if tensors is None:
            return evaluate(self.task, self.backbone).metrics
        key = digest(dict(tensors))
        if key not in self.measured:
            with self.backbone.use(self.target.method, tensors):
                self.measured[key] = evaluate(self.task, self.backbone).metrics
        return self.measured[key]


def chosen_factor(rows: Rows, run: Run, common: dict[str, Any], start: str, steps: int) -> float:
    """The factor of the learning rate with the lowest dev loss at the last step, at seed 0."""
    losses = {}
    for factor in GRID:
        key = {**common, "seed": 0, "start": start, "learning_rate_factor": round(factor, 4), "stage": "rate"}
        row = rows.done(**key)
        if row is None:
            rate = factor * run.target.method.learning_rate
            tuned = run.tuned(run.start(start), steps, rate, 0)
            row = rows.add(**key, dev_loss=tuned.history[-1]["loss"], learning_rate=rate, seconds=tuned.seconds)
        losses[factor] = row["dev_loss"]
    return min(losses, key=lambda factor: losses[factor])


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default="boolq,trec,tweet_offensive")
    parser.add_argument("--methods", default="lora,adapter,prefix")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--smoke", action="store_true", help="one target, one method, 6 steps: ends in a minute")
    options = parser.parse_args()
    if options.smoke:
        options.targets, options.methods, options.steps = "trec", "lora", 6
        options.out = options.out.with_name("smoke.jsonl")
    rows = Rows(options.out, KEY)
    backbone = load_backbone()
    for method in options.methods.split(","):
        for name in options.targets.split(","):
            common = {"target": name, "method": method, "examples": options.examples, "steps": options.steps}
            first = Run(name, method, 0, options.examples, backbone)
            untrained = {**common, "start": "untrained", "seed": 0, "learning_rate_factor": None, "stage": "run"}
            if rows.done(**untrained) is None:
                rows.add(**untrained, accuracy_step0=first.accuracy(None)["accuracy"], majority=first.task.majority)
            factors = {kind: chosen_factor(rows, first, common, kind, options.steps) for kind in ("scratch", "uniform")}
            for seed in SEEDS[method]:
                run = first if seed == 0 else Run(name, method, seed, options.examples, backbone, first.measured)
                for start in STARTS:
                    factor = factors["scratch" if start == "scratch" else "uniform"]
                    key = {**common, "start": start, "seed": seed, "stage": "run"}
                    key["learning_rate_factor"] = round(factor, 4)
                    if rows.done(**key) is not None:
                        continue
                    begun = time.perf_counter()
                    tensors = run.start(start)
                    scored = time.perf_counter() - begun
                    tuned = run.tuned(tensors, options.steps, factor * run.target.method.learning_rate, seed)
                    before, after = run.accuracy(tensors), run.accuracy(tuned.tensors)
                    row = rows.add(
                        **key,
                        accuracy_step0=before["accuracy"],
                        **{f"accuracy_step{options.steps}": after["accuracy"], "macro_f1": after["macro_f1"]},
                        learning_rate=factor * run.target.method.learning_rate,
                        best_step=tuned.best_step,
                        dev_history=tuned.history,
                        sources=len(run.modules),
                        seconds_start=round(scored, 2),
                        seconds=round(tuned.seconds, 2),
                    )
                    print(name, method, start, seed, row["accuracy_step0"], after["accuracy"], flush=True)


if __name__ == "__main__":
    main()
