"""What an experiment runs, read from a JSON file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.strategies.problem import Tuning
from benchmarks.strategies.rates import GRID
from benchmarks.targets import TARGETS


class Part(BaseModel):
    """A grid of runs.

    Attributes:
        targets: Names of tasks.
        starts: Tuned, and tested at the start, at step 60 and at the best step.
        as_they_are: Starts that are tested but not tuned.
        once: Starts that are tested but not tuned, with the first seed alone.
        keep, keep_from: Ways of keeping, and the starts that they are tried on.
        soup_of: Further starts of a soup of starts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    methods: list[str]
    examples: list[int] = [64]
    seeds: list[int]
    targets: list[str]
    starts: list[str]
    as_they_are: list[str] = []
    once: list[str] = []
    keep: list[str] = []
    keep_from: list[str] = []
    soup_of: list[str] = []


class Experiment(BaseModel):
    """All parts, in the order in which they run.

    Attributes:
        grid: Learning rates that dev chooses among, as factors of the method's own.
        rate_examples: Labelled examples of the tunes that choose it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parts: list[Part]
    grid: tuple[float, ...] = GRID
    rate_examples: int = 64
    steps: int = 150
    check: int = 10
    patience: int | None = 6
    batch_size: int = Field(default=16, ge=1)

    @property
    def tuning(self) -> Tuning:
        """Of every start."""
        return Tuning(self.steps, self.check, self.patience, self.batch_size)

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """From a file."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    def only(self, targets: list[str]) -> Experiment:
        """Some targets of it."""
        parts = [part.model_copy(update={"targets": [t for t in part.targets if t in targets]}) for part in self.parts]
        return self.model_copy(update={"parts": parts})

    def own(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of starts that were tuned as here."""
        return [row for row in rows if row["tuning"] == str(self.tuning)]

    def smoke(self) -> Experiment:
        """A minute of it: one development target, one seed, few steps, the first starts and ways of keeping."""
        first = self.parts[0]
        small = {
            "targets": [TARGETS["development"][-1]],
            "examples": [16],
            "seeds": [0],
            "methods": ["lora"],
            "starts": first.starts[:3],
            "as_they_are": first.as_they_are[:1],
            "once": [],
            "keep": first.keep[:3],
            "keep_from": first.keep_from[:1],
        }
        changes = {"grid": (1 / 3,), "rate_examples": 16, "steps": 4, "check": 2, "patience": None}
        return self.model_copy(update={"parts": [first.model_copy(update=small)], **changes})
