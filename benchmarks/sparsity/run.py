"""Accuracy against parameters kept, at the same six places of every layer and with the same number of steps.

    TRANSFER_TASKS=DIR python -m benchmarks.sparsity.run --targets trec,mrpc

Three kinds of runs for each target and seed: `sora`, a third of its steps with all gates and the rest at one xi, a row
for each of four xi; `lora-start`, a LoRA of the rank that SoRA starts at; `lora-final`, a LoRA as large as the SoRA
that is chosen. All have as many steps and count with their last one. Learning rates are chosen by dev accuracy there,
at seed 0, once for LoRA and once for SoRA at xi = 0 (not by dev loss: after many passes the lowest loss is that of a
delta which has collapsed to a constant answer). The SoRA is the one with the best dev accuracy among those with at most
70% of the parameters (`chosen`). Test is only measured.

How it is made sparse was chosen on dev of trec and tweet_sentiment, seed 0: xi times the learning rate, so that gates
stand still when A and B do. With a fixed xi, or with five stages whose learning rate begins anew, dev accuracy was one
to three points lower at equal size.
Rows that are there are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.options import parsed
from benchmarks.pace import Pace
from benchmarks.rows import Rows
from transfer.backbones import Backbone, load_backbone
from transfer.deltas import Delta, LoRA, SoRA, ranks_of
from transfer.deltas.ranks import Ranks
from transfer.evaluation import evaluate
from transfer.tasks import Task, load_task
from transfer.training import Tuned, TuneSettings, tune
from transfer.training.measuring import measure

HERE = Path(__file__).parent
GRID = (1 / 3, 1.0, 3.0)
TARGETS = ("trec", "tweet_sentiment", "tweet_offensive", "tweet_irony", "mrpc", "rte")  # development targets
SEEDS = (0, 1)
KEY = ("target", "kind", "seed", "examples", "steps", "rank", "cut", "learning_rate_factor", "stage")
RANK = 8
CUTS = (0.0, 0.42, 0.65, 1.0)  # how far gates, which start as N(0, 1), shrink in all where nothing holds them up
MOST = 0.7  # share of the parameters that the chosen stage may keep


class Run:
    """One target and seed: its examples, and the tunes on them."""

    def __init__(self, name: str, seed: int, examples: int, steps: int, backbone: Backbone) -> None:
        self.task: Task = load_task(name, examples=examples, seed=seed, source="folder")
        self.seed, self.steps, self.backbone = seed, steps, backbone
        self.train, self.dev = (backbone.encode(rows, self.task.fields) for rows in (self.task.train, self.task.dev))

    def settings(self, factor: float, steps: int) -> TuneSettings:
        """Of a tune at this factor of the default learning rate."""
        return TuneSettings(steps=steps, learning_rate=factor * LoRA.learning_rate, seed=self.seed, eval_every=steps)

    def tuned(self, method: LoRA, factor: float, steps: int, start: Mapping[str, Tensor] | None = None) -> Tuned:
        """A tune to its last step, from the method's own start if no other is given."""
        start = start or method.draw(self.backbone.model)
        settings = self.settings(factor, steps)
        return tune(self.backbone, method, self.train, tensors=start, settings=settings, dev=self.dev, keep="last")

    def test(self, method: LoRA, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """Metrics on test."""
        return evaluate(self.task, self.backbone, Delta(method, dict(tensors))).metrics


def chosen(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the rows of one seed: the best dev accuracy at no more than 70% of the parameters, the smaller one of equals.

    The smallest, where none is that small.
    """
    small = [row for row in found if row["share"] <= MOST]
    if not small:
        return min(found, key=lambda row: row["parameters"])
    return max(small, key=lambda row: (row["dev_accuracy"], -row["parameters"]))


def lora_of_size(parameters: int, ranks: Ranks) -> LoRA:
    """A LoRA at all the places of `ranks` with as many parameters, or just below, and the same scale everywhere.

    The same rank everywhere, at least 1; from the last layer on one more, where that still fits.
    """
    widths = {place.place: place.width for place in ranks.places}
    rank = max(1, parameters // sum(widths.values()))
    left = parameters - rank * sum(widths.values())
    more = {}
    for place, width in reversed(widths.items()):
        if width <= left:
            more[place], left = rank + 1, left - width
    scale = LoRA.alpha / max(place.start for place in ranks.places)  # that of the LoRA and the SoRA at the start
    alphas = {place: scale * own for place, own in more.items()}
    return LoRA(rank=rank, alpha=scale * rank, where=SoRA.where, ranks=more, alphas=alphas)


def chosen_factor(rows: Rows, run: Run, common: dict[str, Any], method: LoRA, steps: int) -> float:
    """The factor of the learning rate with the highest dev accuracy at the last step; of equal ones the lower loss."""
    found = {}
    for factor in GRID:
        key = {**common, "kind": method.method, "seed": 0, "cut": None, "stage": "rate"}
        key |= {"learning_rate_factor": round(factor, 4)}
        row = rows.done(**key)
        if row is None:
            tuned = run.tuned(method, factor, steps)
            last = tuned.history[-1]
            row = rows.add(**key, dev_accuracy=last["accuracy"], dev_loss=last["loss"], seconds=round(tuned.seconds, 2))
        found[factor] = (-row["dev_accuracy"], row["dev_loss"])
    return min(found, key=lambda factor: found[factor])


def measure_sora(rows: Rows, run: Run, common: dict[str, Any], factor: float) -> list[dict[str, Any]]:
    """The rows of one SoRA, a row for each of `CUTS`; trained and written where one is missing."""
    keys = [
        {**common, "kind": "sora", "cut": cut, "learning_rate_factor": round(factor, 4), "stage": "run"} for cut in CUTS
    ]
    if any(rows.done(**key) is None for key in keys):
        warm_steps = run.steps // 3
        rest = run.steps - warm_steps
        dense = SoRA(rank=common["rank"], xi=0.0)
        warm = run.tuned(dense, factor, warm_steps)
        for key in keys:
            if rows.done(**key) is None:
                # The rate falls linearly to 0, so this is how far it moves a gate that nothing holds up.
                xi = key["cut"] / (factor * LoRA.learning_rate * rest / 2)
                method = replace(dense, xi=xi, scale_by_rate=True)
                tuned = run.tuned(method, factor, rest, warm.tensors)
                delta = Delta(method, tuned.tensors)
                with run.backbone.use(delta):
                    train = measure(run.backbone, run.train).metrics()
                last, test, ranks = tuned.history[-1], run.test(method, tuned.tensors), ranks_of(delta)
                rows.add(
                    **key,
                    xi=xi,
                    accuracy=test["accuracy"],
                    macro_f1=test["macro_f1"],
                    dev_accuracy=last["accuracy"],
                    dev_loss=last["loss"],
                    train_accuracy=train["accuracy"],
                    majority=run.task.majority,
                    seconds=round(warm.seconds + tuned.seconds, 2),
                    **ranks.to_json(),
                )
                print(common["target"], "sora", common["seed"], key["cut"], ranks.share, test["accuracy"], flush=True)
    return [row for row in (rows.done(**key) for key in keys) if row is not None]


def measure_lora(rows: Rows, run: Run, common: dict[str, Any], kind: str, method: LoRA, factor: float) -> None:
    """The row of one LoRA."""
    key = {**common, "kind": kind, "cut": None, "learning_rate_factor": round(factor, 4), "stage": "run"}
    if rows.done(**key) is not None:
        return
    tuned = run.tuned(method, factor, run.steps)
    delta = Delta(method, tuned.tensors)
    test = run.test(method, tuned.tensors)
    last = tuned.history[-1]
    rows.add(
        **key,
        accuracy=test["accuracy"],
        macro_f1=test["macro_f1"],
        dev_accuracy=last["accuracy"],
        dev_loss=last["loss"],
        majority=run.task.majority,
        seconds=round(tuned.seconds, 2),
        parameters=ranks_of(delta).parameters,
        ranks=ranks_of(delta).kept,
    )
    print(common["target"], kind, common["seed"], ranks_of(delta).parameters, test["accuracy"], flush=True)


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--steps", type=int, default=300, help="of every run")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--smoke", action="store_true", help="one target and seed, 40 examples, 12 steps: a minute")
    options = parsed(parser)
    if options.smoke:
        options.targets, options.seeds, options.examples, options.steps = "trec", "0", 40, 12
        options.out = options.out.with_name("smoke.jsonl")
    rows = Rows(options.out, KEY)
    backbone = load_backbone()
    targets, seeds = options.targets.split(","), [int(seed) for seed in options.seeds.split(",")]
    pace = Pace(len(targets) * len(seeds))
    for name in targets:
        common = {"target": name, "examples": options.examples, "steps": options.steps, "rank": options.rank}
        dense = SoRA(rank=options.rank, xi=0.0)
        lora = LoRA(rank=options.rank, where=dense.where)
        first = Run(name, 0, options.examples, options.steps, backbone)
        factors = {
            method.method: chosen_factor(rows, first, common, method, options.steps // 2) for method in (lora, dense)
        }
        for seed in seeds:
            before = len(rows.rows)
            run = first if seed == 0 else Run(name, seed, options.examples, options.steps, backbone)
            here = {**common, "seed": seed}
            found = measure_sora(rows, run, here, factors["sora"])
            measure_lora(rows, run, here, "lora-start", lora, factors["lora"])
            start = ranks_of(Delta(lora, lora.draw(backbone.model)))
            same_size = lora_of_size(chosen(found)["parameters"], start)
            measure_lora(rows, run, here, "lora-final", same_size, factors["lora"])
            if len(rows.rows) == before:
                pace.skip()
            else:
                print(name, "seed", seed, "is done:", pace.step(), flush=True)


if __name__ == "__main__":
    main()
