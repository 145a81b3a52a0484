"""auto: a short list of starts, raced on the target's examples within a budget of seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.ensembling.choosing import AUTO
from transfer.ensembling.fitted import Fit, FitSettings, Pool, check_sources, fit_weights
from transfer.ensembling.merging import merge
from transfer.ensembling.racing import RUNGS, Split, race, splits_of
from transfer.ensembling.standings import SCRATCH, Race
from transfer.ensembling.verdict import Verdict
from transfer.ensembling.weighting import TEMPERATURE, needs_no_scores, weigh
from transfer.errors import SourceError
from transfer.similarity.scores import Scores
from transfer.similarity.scoring import score
from transfer.similarity.target import Target
from transfer.tasks import Task
from zoo import Module

BUDGET = 120.0  # seconds
LEARNED_SHARE = 0.15  # of the budget that learning the weights may take, for each split


@dataclass(frozen=True)
class Recipe:
    """How a candidate is made: an estimator's scores, a way from them to weights, and a rule of merging.

    Without a rule it is the one that is asked for.
    """

    estimator: str = "gradient:first-order"
    how: str = "softmax"
    merge: str | None = None


# In the order of what they cost, so that a small budget has tried the cheap ones.
CANDIDATES: dict[str, Recipe] = {
    "uniform": Recipe(how="uniform"),
    "first-order": Recipe(),
    "ties": Recipe(merge="ties"),
    "best single": Recipe(how="best"),
    "embedding": Recipe("embedding:cosine"),
    "neighbours": Recipe("neighbours:votes"),
    "parameters": Recipe("parameters:cosine"),
    "prediction": Recipe("prediction:calibrated"),
    "learned": Recipe(how="learned"),
}


@dataclass(frozen=True)
class Made:
    """A candidate made of all training examples, with what a recipe says of it; `merge` is the rule or "auto"."""

    delta: Delta = field(repr=False)
    scores: Scores
    weights: Mapping[str, float]
    how: str
    merge: str
    fit: Fit | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Auto:
    """What `auto` chose, and why.

    `made` is the candidate; where scratch was chosen, the best of the others, for the recipe to tell of.
    """

    race: Race
    made: Made
    verdict: Verdict
    budget: float
    cut_short: tuple[str, ...] = ()  # candidates whose making their share of the budget ended early

    @property
    def scratch(self) -> bool:
        """Nothing was better than scratch."""
        return self.race.chosen == SCRATCH

    def remarks(self) -> list[str]:
        """What the user should know of the race."""
        said = []
        if self.scratch:
            said.append(
                f"nothing that was tried was better than scratch, which is kept; the verdict is about "
                f"{self.race.runner_up()!r}, the best of the others"
            )
        if self.race.cross_validated:
            said.append("there are too few dev examples to choose by: losses are of four-fold cross-validation")
        if self.cut_short:
            said.append(f"the budget of {self.budget:g} s ended the making of {', '.join(self.cut_short)} early")
        if self.race.ran_out:
            said.append(f"the budget of {self.budget:g} s ended the race after tunes of {self.race.steps} steps")
        return said

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, for the recipe."""
        return {
            "chosen": self.race.chosen,
            "candidates": self.race.rows(),
            "steps": self.race.steps,
            "budget": self.budget,
            "ran_out": self.race.ran_out,
            "cut_short": list(self.cut_short),
            "cross_validated": self.race.cross_validated,
        }


class Maker:
    """Makes the candidates of a target and its modules; what several share is computed once for each split."""

    def __init__(
        self,
        modules: Sequence[Module],
        backbone: Backbone,
        method: str | DeltaMethod,
        *,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        merge: str = AUTO,
        seed: int = 0,
        batch_size: int = 16,
        budget: float = BUDGET,
        force: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.modules, self.backbone, self.method = modules, backbone, method
        self.temperature, self.top_k, self.merge, self.force = temperature, top_k, merge, force
        self.fit = FitSettings(budget=budget * LEARNED_SHARE, seed=seed, batch_size=batch_size)
        self._seed, self._note = seed, note
        self._targets: dict[int, Target] = {}
        self._scores: dict[tuple[int, str], Scores] = {}
        self._made: dict[tuple[int, str], Made] = {}

    @property
    def cut_short(self) -> tuple[str, ...]:
        """Candidates that are not what they would have become with more time."""
        return tuple(dict.fromkeys(name for (_, name), made in self._made.items() if made.fit and made.fit.ended_early))

    def target(self, task: Task) -> Target:
        """The target of a split's task, with what estimators share."""
        if id(task) not in self._targets:
            self._targets[id(task)] = Target.for_modules(task, self.backbone, self.modules, self.method, self._seed)
        return self._targets[id(task)]

    def know(self, target: Target) -> None:
        """Use a target that was prepared elsewhere."""
        self._targets[id(target.task)] = target

    def scratch(self, task: Task) -> Delta:
        """The shared start."""
        target = self.target(task)
        return Delta(target.method, dict(target.start), target.method.settings(self.backbone.model))

    def make(self, name: str, task: Task) -> Made:
        """A candidate, made of the task's training examples alone."""
        key = id(task), name
        if key not in self._made:
            self._made[key] = self._make(CANDIDATES[name], self.target(task))
        return self._made[key]

    def _make(self, recipe: Recipe, target: Target) -> Made:
        if recipe.how == "learned":
            check_sources("learned", target, self.modules)
        scores = self._scored(target, recipe)
        if recipe.how == "learned":
            # Without dev, which is what the candidates are judged on.
            pool = Pool(target, self.modules, scores, dev=[], temperature=self.temperature, top_k=self.top_k)
            fit = fit_weights(pool, "learned", self.fit)
            delta = Delta(target.method, fit.tensors, target.method.settings(self.backbone.model))
            return Made(delta, scores, fit.weights, "learned", "linear", fit)
        weights = weigh(scores, recipe.how, self.temperature, self.top_k)
        rule = recipe.merge or self.merge
        return Made(merge(self.modules, weights, rule, self._note), scores, weights, recipe.how, rule)

    def _scored(self, target: Target, recipe: Recipe) -> Scores:
        key = id(target.task), recipe.estimator
        if key not in self._scores:
            try:
                self._scores[key] = score(
                    target,
                    self.modules,
                    self.backbone,
                    target.method.method,
                    recipe.estimator,
                    include_own=True,
                    force=self.force,
                )
            except SourceError:
                if not needs_no_scores(recipe.how, self.top_k):
                    raise
                return Scores.none([module.id for module in self.modules])
        return self._scores[key]


def choose_start(
    task: Task,
    maker: Maker,
    *,
    budget: float = BUDGET,
    licences: Callable[[Mapping[str, float]], Sequence[str]] = lambda weights: (),
    batch_size: int = 16,
    seed: int = 0,
) -> Auto:
    """Race the candidates on the target's few examples, and hand over the best, never one that is worse than scratch.

    Judged on dev, or by four-fold cross-validation where dev is too small; then every candidate is made anew for each
    fold, from the training part alone.

    Args:
        task: The target.
        maker: Of the candidates.
        budget: Seconds.
        licences: Of the sources behind weights, for the verdict.
        batch_size, seed: Of all tunes.
    Raises:
        ConfigError: the budget is not above 0. DataError: there are too few examples.
        SourceError: no candidate but scratch could be made.
    """
    splits = splits_of(task, maker.backbone, seed)

    def made_by(name: str) -> Callable[[Split], Delta]:
        return lambda split: maker.make(name, split.task or task).delta

    candidates: dict[str, Callable[[Split], Delta]] = {
        SCRATCH: lambda split: maker.scratch(split.task or task),
        **{name: made_by(name) for name in CANDIDATES},
    }
    found = race(maker.backbone, candidates, splits, budget=budget, rungs=RUNGS, batch_size=batch_size, seed=seed)
    best = found.chosen if found.chosen != SCRATCH else found.runner_up()
    made = maker.make(best, task)
    compared = found.against_scratch(best)
    ours, theirs = (found.runners[name].losses[found.steps] for name in (best, SCRATCH))
    if not found.steps and compared["outcome"] == "helps":  # anything beats the fresh module before a tune
        compared["outcome"] = "unclear"
    verdict = Verdict(
        **compared,
        best_of=len(found.measured),
        steps=found.steps,
        n_dev=len(ours),
        cross_validated=found.cross_validated,
        losses={"initialization": float(ours.mean()), "scratch": float(theirs.mean())},
        licences=() if found.chosen == SCRATCH else tuple(licences(made.weights)),
        seconds=sum(runner.seconds for runner in found.runners.values()),
    )
    return Auto(found, made, verdict, budget, maker.cut_short)
