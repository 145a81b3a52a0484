"""One call of `initialize`, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.cards import versions
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.ensembling import MERGES
from transfer.ensembling.choosing import AUTO, choose_rule
from transfer.ensembling.compatible import acting_on, acting_settings, largest_group, same_backbone
from transfer.ensembling.fitted import Fit, FitSettings, Pool, check_sources, fit_weights, fitted
from transfer.ensembling.guarding import guard as judge
from transfer.ensembling.merging import merge as merge_modules
from transfer.ensembling.merging import nonzero
from transfer.ensembling.rule import MergeRule
from transfer.ensembling.verdict import Verdict
from transfer.ensembling.weighting import mean_weights, needs_no_scores, weigh
from transfer.errors import SourceError
from transfer.init_config import InitConfig
from transfer.initialization import SCHEMA, Initialization, base_model_prefix
from transfer.raced import raced
from transfer.recipes import NO_WEIGHT, block_norms, described, source_of, start_of_all
from transfer.relatives import Relatives, find_relatives
from transfer.similarity import ESTIMATORS
from transfer.similarity.activations import source_grams
from transfer.similarity.scores import Scores
from transfer.similarity.scoring import score
from transfer.similarity.sources import find_sources, unmatched
from transfer.similarity.target import Target
from transfer.tasks import Task
from zoo import Module
from zoo.card import now
from zoo.reading import ReadableZoo
from zoo.tensors import digest


@dataclass
class Clock:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        now_ = time.perf_counter()
        self.seconds[stage] = round(now_ - self.begun, 3)
        self.begun = now_


class Job:
    """One call of `initialize`, stage by stage."""

    def __init__(
        self,
        config: InitConfig,
        task: Task,
        backbone: Backbone,
        zoo: ReadableZoo | list[Module],
        say: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.config, self.task, self.backbone, self.zoo, self.clock = config, task, backbone, zoo, clock
        own = () if config.include_own else (task.name,)
        self.exclude = tuple(dict.fromkeys((*own, *config.exclude)))
        self.notes: list[str] = []
        self._say = say

    def run(self) -> Initialization:
        config, clock = self.config, self.clock
        modules = self._sources()
        target = Target.for_modules(self.task, self.backbone, modules, config.method, config.seed)
        check_sources(config.how, target, modules)
        clock.lap("sources")
        relatives = find_relatives(target, modules)
        if relatives.note is not None:
            self.note(relatives.note)
        clock.lap("relatives")
        if config.auto:
            return raced(self, target, modules, relatives)
        if config.guard and self._curve_every is not None and self._dev:  # before an estimator makes that tune
            target.measure_scratch(self._dev, self._curve_every, config.guard_steps, config.batch_size)
        scores = self._scores(target, modules)
        clock.lap("score")
        fit = self._fit(target, modules, scores)
        table: Mapping[str, Any] = (
            weigh(scores, config.how, config.temperature, config.top_k, config.per_block)
            if fit is None
            else fit.weights
        )
        weights = mean_weights(table)
        clock.lap("weigh")
        merged = [module for module in modules if _largest(weights, fit, module) > NO_WEIGHT]
        licences = tuple(sorted({module.card.license for module in merged}))
        rule, options = self._rule(modules, table, fit)
        if fit is not None and fit.table is not None:
            delta = Delta(target.method, fit.tensors, target.method.settings(self.backbone.model))
        else:
            delta = merge_modules(modules, table, rule.name, self.note, **options)
        clock.lap("merge")
        verdict = self._judged(target, delta, licences) if config.guard else None
        hurts = verdict is not None and verdict.outcome == "hurts"
        if hurts:
            delta = Delta(target.method, dict(target.start), target.method.settings(self.backbone.model))
        clock.lap("guard")
        recipe = self.recipe(target, delta, modules, merged, scores, weights, relatives, verdict)
        recipe["licences"] = [] if hurts else list(licences)
        recipe["merge"], recipe["merge_options"] = rule.name, rule.options
        recipe["weighting"] = None if fit is None else fit.about
        by_block = {i: list(row) for i, row in table.items()} if config.per_block and fit is None else None
        recipe["block_weights"] = by_block if fit is None else fit.table
        if not (hurts or rule.leaves_start):  # nothing stands behind it that a module tuned from it could share
            recipe["start"] = recipe["start_sha256"] = None
        return Initialization(delta, recipe, verdict)

    def _sources(self) -> list[Module]:
        """Modules that fit the backbone and can be merged with each other."""
        config = self.config
        for line in unmatched(self.zoo, config.exclude):
            self.note(line)
        modules = find_sources(self.zoo, self.backbone, config.method, self.exclude, config.force, self.note)
        if isinstance(config.method, DeltaMethod):
            modules = _with_settings(modules, config.method, self.backbone)
        mixes = config.method_name == "lora" if config.merge == AUTO else MERGES.get(config.merge).mixes
        mixes = mixes and fitted(config.how) is None  # those find weights of the linear merge
        alone = ESTIMATORS.get(config.estimator).same_shapes
        kept, rest = (same_backbone if mixes and not alone else largest_group)(modules, self.backbone.fingerprint)
        if rest:
            names = ", ".join(module.id for module in rest[:3]) + (", ..." if len(rest) > 3 else "")
            differ = "other settings or another backbone" if config.force else "other settings"
            self.note(
                f"{len(rest)} of {len(modules)} modules are left out, since "
                f"{config.estimator if mixes and alone else self._said_rule()} cannot "
                f"{'compare' if mixes and alone else 'merge'} them with the rest ({differ}): {names}"
            )
        return kept

    def _scores(self, target: Target, modules: Sequence[Module]) -> Scores:
        """Of the modules; where weights do not depend on them they may be missing, and a note says why."""
        config = self.config
        try:
            # The modules were chosen before, so nothing is left to be excluded.
            return score(
                target,
                modules,
                self.backbone,
                config.method_name,
                config.estimator,
                include_own=True,
                force=config.force,
                per_block=config.per_block and fitted(config.how) is None,
            )
        except SourceError as error:
            if config.per_block or not needs_no_scores(config.how, config.top_k):
                raise
            self.note(f"the modules have no scores, and the weights need none: {str(error).splitlines()[0]}")
            return Scores.none([module.id for module in modules])

    def _fit(self, target: Target, modules: Sequence[Module], scores: Scores) -> Fit | None:
        """Weights found on the target's examples; None for a weighting that needs scores alone."""
        config = self.config
        if fitted(config.how) is None:
            return None
        pool = Pool(target, modules, scores, temperature=config.temperature, top_k=config.top_k)
        settings = FitSettings(
            per_block=config.per_block, budget=config.budget, seed=config.seed, batch_size=config.batch_size
        )
        found = fit_weights(pool, config.how, settings)
        if found.ended_early:
            self.note(f"{config.how}: the budget of {config.budget:g} s ended it; the best so far is taken")
        if not pool.dev:
            self.note(f"{config.how}: there are no dev examples, so it went by the training examples alone")
        return found

    def _said_rule(self) -> str:
        return repr("linear" if self.config.merge == AUTO else self.config.merge)

    def _rule(
        self, modules: Sequence[Module], weights: Mapping[str, Any], fit: Fit | None
    ) -> tuple[MergeRule, dict[str, Any]]:
        """The rule for what is merged, said where it was chosen for the user, and what it is called with."""
        config = self.config
        wanted = set(nonzero(weights))
        merged = sorted((module for module in modules if module.id in wanted), key=lambda module: module.id)
        rule, why = choose_rule(config.merge if fit is None else "linear", merged, config.merge_options)
        if why is not None:
            self.note(why)
        options = dict(config.merge_options)
        if rule.name == "regmean" and options.get("grams") is None:
            options["grams"] = source_grams(self.backbone, merged, self.note, config.seed)
        return rule, options

    def _judged(self, target: Target, delta: Delta, licences: Sequence[str]) -> Verdict:
        config = self.config
        return judge(
            self.backbone,
            target.method,
            target.encoded,
            self._dev,
            start=delta.tensors,
            scratch=target.start,
            start_method=delta.method,
            scratch_tune=target.scratch_tune(config.guard_steps, config.batch_size) if self._dev else None,
            steps=config.guard_steps,
            batch_size=config.batch_size,
            seed=config.seed,
            licences=licences,
            curve_every=self._curve_every,
        )

    @cached_property
    def _dev(self) -> list[Encoded]:
        """Dev examples, encoded; may be empty."""
        return self.backbone.encode(self.task.dev, self.task.fields) if len(self.task.dev) else []

    @property
    def _curve_every(self) -> int | None:
        """Steps between measurements along the guard's tunes; None without a page to draw them on."""
        return max(1, self.config.guard_steps // 5) if self.config.explain else None

    def note(self, line: str) -> None:
        self.notes.append(line)
        self._say(line)

    def recipe(
        self,
        target: Target,
        delta: Delta,
        modules: Sequence[Module],
        merged: Sequence[Module],
        scores: Scores,
        weights: dict[str, float],
        relatives: Relatives,
        verdict: Verdict | None,
    ) -> dict[str, Any]:
        config, task, backbone = self.config, self.task, self.backbone
        hurts = verdict is not None and verdict.outcome == "hurts"
        bare = hurts or not merged  # weights may all be 0: then the start itself is what is left
        start, start_digest = start_of_all(merged or modules, digest(target.start) if bare else None)
        return {
            "schema": SCHEMA,
            "created": now(),
            "target": described(task),
            "method": delta.method.method,
            "settings": dict(delta.settings),
            "backbone": backbone.said_name,
            "base_model": backbone.base_model,
            "fingerprint": backbone.fingerprint,
            "kind": backbone.kind,
            "precision": backbone.precision,
            "device": str(backbone.device),
            "max_length": backbone.max_length,
            "base_model_prefix": base_model_prefix(backbone.model),
            "handed_over": "scratch" if hurts else "merged",
            "modules": [source_of(module) for module in merged],
            "weights": weights,
            "scores": scores.as_dict(),
            "estimator": scores.estimator,
            "temperature": config.temperature,
            "top_k": config.top_k,
            "how": config.how,
            "exclude": list(self.exclude),
            "per_block": config.per_block,
            "start": start,
            "start_sha256": start_digest,
            "seeds": {"run": config.seed, "examples": task.seed},
            "guard": {"steps": config.guard_steps, "batch_size": config.batch_size} if config.guard else None,
            "verdict": None if verdict is None else verdict.as_dict(),
            "block_norms": block_norms(merged) if config.explain else None,
            "relatives": relatives.as_dict(),
            "notes": list(self.notes),
            "seconds": dict(self.clock.seconds),
            "versions": versions(),
        }


def _largest(weights: Mapping[str, float], fit: Fit | None, module: Module) -> float:
    """The largest weight of a module in absolute value, over blocks where they differ."""
    if fit is not None and fit.table is not None and module.id in fit.table:
        return max(abs(weight) for weight in fit.table[module.id])
    return abs(weights[module.id])


def _with_settings(modules: Sequence[Module], method: DeltaMethod, backbone: Backbone) -> list[Module]:
    """Modules whose settings and places act as those of `method`; SourceError if there are none."""
    wanted = acting_on(method, backbone.model)
    found = [module for module in modules if acting_settings(module) == wanted]
    if found:
        return found
    theirs = acting_settings(modules[0])
    differ = [name for name in sorted(wanted.keys() | theirs.keys()) if wanted.get(name) != theirs.get(name)]
    raise SourceError(
        f"no {method.method!r} module acts as {method!r} does",
        found=f"{len(modules)} modules with other settings; {modules[0].id} differs in {', '.join(differ)}",
        hint=f"method={method.method!r} takes the settings that most modules have",
    )
