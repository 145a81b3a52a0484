"""Runs an experiment: a row for each target, method, start, way of keeping, number of examples and seed.

The learning rate is chosen on dev, at seed 0, twice for each target and method: once for scratch, once on `uniform` for
all other starts. Test is only measured. Rows that are there are not run again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

from benchmarks.pace import Pace
from benchmarks.rows import Rows
from benchmarks.strategies.experiment import Experiment, Part
from benchmarks.strategies.keeps import kept
from benchmarks.strategies.problem import Made, Problem
from benchmarks.strategies.rates import KEY, best_after, best_loss, choose_rate, cost, run_key
from benchmarks.strategies.starts import Recipe, start_of
from transfer.backbones import Backbone
from transfer.deltas import Delta
from transfer.errors import ConfigError, DivergedError

MIDDLE = 60  # the step whose accuracy stands for a fixed budget
LOOKS = (10, 20, 40, 100)  # steps at which a learning curve is measured, beside the start, the middle and the best
RATE_SEED = 0
METRICS = ("accuracy", "macro_f1", "loss", "right", "held_accuracy", "held_loss")


def _tested(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """accuracy_NAME, macro_f1_NAME, loss_NAME, and so on."""
    return {f"{metric}_{name}": metrics[metric] for metric in METRICS if metric in metrics}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@dataclass
class Runner:
    """Runs what is not in the file yet. `tests` are shared by the runs that can; `more` are starts beside `STARTS`."""

    rows: Rows
    experiment: Experiment
    backbone: Backbone
    console: Console = field(default_factory=Console)
    tests: dict[tuple[str, str], dict[str, dict[str, Any]]] = field(default_factory=dict)
    more: Mapping[str, Recipe] = field(default_factory=dict)
    failed: int = field(default=0, init=False)

    def run(self) -> None:
        """All parts; after each target a line with the time that is left at this pace.

        Raises:
            SystemExit: some runs failed; their rows say why, and they are tried again next time.
        """
        units = list(self._units())
        pace = Pace(len(units))
        for part, method, examples, target, seed in units:
            problem = None
            for start, keep in self._wanted(part, seed):
                if self._there(target, method, examples, seed, start, keep):
                    continue
                problem = problem or self._problem(target, method, examples, seed)
                self._one(part, problem, start, keep)
            if problem is None:
                pace.skip()
            else:
                self.console.print(f"{target} {method} {examples} examples seed {seed} is done: {pace.step()}")
        if self.failed:
            raise SystemExit(f"{self.failed} runs failed; their rows say why")

    def _units(self) -> Iterator[tuple[Part, str, int, str, int]]:
        for part in self.experiment.parts:
            yield from itertools.product([part], part.methods, part.examples, part.targets, part.seeds)

    @staticmethod
    def _wanted(part: Part, seed: int) -> list[tuple[str, str | None]]:
        """(start, way of keeping) of every run of a unit; None is a start that is not tuned."""
        first = seed == part.seeds[0]
        return [
            ("untrained", None),
            *((name, "best") for name in part.starts),
            *((name, None) for name in (part.once if first else ())),
            *((name, None) for name in part.as_they_are),  # after those whose seconds count: estimators share work
            *((name, keep) for name in part.keep_from for keep in part.keep),
        ]

    def _there(self, target: str, method: str, examples: int, seed: int, start: str, keep: str | None) -> bool:
        run: dict[str, Any] = {"stage": "run", "target": target, "method": method, "start": start, "keep": keep}
        run |= {"examples": examples, "seed": seed, "tuning": str(self.experiment.tuning)}
        # What failed is tried again: the cause may have been a network, or rows that are there now. What was refused
        # for what the target or the settings are is not.
        finished = (row for row in self.rows.rows if "error" not in row)
        return any(all(row.get(name) == value for name, value in run.items()) for row in finished)

    def _problem(self, target: str, method: str, examples: int, seed: int) -> Problem:
        tests = self.tests.setdefault((target, method), {})
        return Problem(target, method, seed, examples, self.backbone, self.experiment.tuning, tests)

    def _rate(self, problem: Problem, start: str) -> float:
        """The factor for this start, chosen on the examples and the seed that all runs of the target share.

        That of scratch for what is scratch: `auto` may hand it over. Its own where the recipe asks for that.
        """
        of = {**problem.named(), "examples": self.experiment.rate_examples, "seed": RATE_SEED}
        own = start in self.more and self.more[start].own_rate
        scratch = problem.is_scratch(start_of(problem, start, self.more).delta)
        kind = start if own else "scratch" if scratch else "uniform"

        def make() -> tuple[Problem, Delta]:
            chooser = problem
            if problem.named() != of:
                chooser = self._problem(of["target"], of["method"], of["examples"], of["seed"])
            return chooser, start_of(chooser, kind, self.more).delta

        return choose_rate(self.rows, of, kind, self.experiment.grid, make)

    def _one(self, part: Part, problem: Problem, start: str, keep: str | None) -> None:
        factor = None
        common = {"majority": problem.task.majority, "category": problem.task.category, "sources": len(problem.modules)}
        try:
            factor = None if keep is None else self._rate(problem, start)
            result = self._measured(part, problem, start, keep, factor)
        except ConfigError as error:
            result = {"refused": _first_line(error)}
        except Exception as error:  # whatever it is, the other runs go on
            self.failed += 1
            result = {"error": _first_line(error)}
        key = run_key(
            stage="run",
            **problem.named(),
            start=start,
            keep=keep,
            learning_rate_factor=None if factor is None else round(factor, 4),
        )
        row = self.rows.add(**key, **common, **result)
        shown = [f"{row[name]:.3f}" for name in row if name.startswith("accuracy_")] or [
            row.get("error") or row.get("refused", "")
        ]
        self.console.print(*(str(key[name]) for name in KEY[1:7]), *shown, highlight=False)

    def _measured(
        self, part: Part, problem: Problem, start: str, keep: str | None, factor: float | None
    ) -> dict[str, Any]:
        if start == "untrained":
            return _tested("step0", problem.test(None))
        made = start_of(problem, start, self.more)
        result = {"seconds_start": made.seconds, **made.about, **_tested("step0", problem.test(made.delta))}
        if keep is None or factor is None:
            return result
        rate = factor * made.delta.method.learning_rate
        result["learning_rate"] = rate
        if keep == "best":
            return result | self._tuned(problem, made, rate)
        others = {} if start == "scratch" else {name: start_of(problem, name, self.more).delta for name in part.soup_of}
        found = kept(problem, keep, made.delta, rate, others)
        after = problem.test(Delta(made.delta.method, found.tensors, made.delta.settings))
        losses = [loss for loss in found.about["candidates"].values() if loss is not None]
        return result | {
            **_tested("best", after),
            "chosen": found.chosen,
            "dev_loss": min(losses) if losses else None,
            "steps": found.steps,
            "seconds": round(found.seconds, 2),
            "threads": torch.get_num_threads(),
        }

    def _tuned(self, problem: Problem, made: Made, rate: float) -> dict[str, Any]:
        """Test at the start, in the middle, at the step that dev chose, and at the one it chose after the start.

        What diverges gives what it was before: a user has the start as it is.
        """
        try:
            path = problem.path(made.delta, rate)
        except DivergedError as error:
            found = problem.test(made.delta)
            again = {name: value for at in ("step60", "best", "tuned") for name, value in _tested(at, found).items()}
            return {**again, "diverged": _first_line(error), "best_step": 0, "dev_history": [], "seconds": None}

        def at(step: int) -> Delta:
            return Delta(made.delta.method, path.tensors[step], made.delta.settings)

        middle = max(step for step in path.tensors if step <= MIDDLE)
        tuned = best_after(path)
        curve = {step: problem.held_out(at(step)) for step in sorted({0, *LOOKS, middle}) if step in path.tensors}
        return {
            **_tested("step60", problem.test(at(middle))),
            **_tested("best", problem.test(at(path.best_step))),
            **_tested("tuned", problem.test(at(tuned))),
            "held_curve": {step: round(found["held_accuracy"], 4) for step, found in curve.items() if found},
            "middle": middle,
            "best_step": path.best_step,
            "tuned_step": tuned,
            "dev_loss": best_loss(path),
            "dev_history": path.tuned.history,
            **cost(path),
        }
