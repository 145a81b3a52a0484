"""The main job: from a target task and a zoo to an initialization that says of itself whether it helps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transfer.backbones import load_backbone
from transfer.backbones.backbone import Backbone
from transfer.deltas.method import DeltaMethod
from transfer.ensembling.choosing import AUTO
from transfer.init_config import InitConfig
from transfer.initialization import Initialization
from transfer.job import Clock, Job
from transfer.similarity.sources import opened
from transfer.tasks import Task, load_task
from zoo import Module
from zoo.reading import ReadableZoo

__all__ = ["InitConfig", "initialize"]

logger = logging.getLogger(__name__)


def initialize(
    target: Task | str | Path,
    zoo: ReadableZoo | Iterable[Module] | str | Path | None = None,
    backbone: Backbone | str | None = None,
    method: str | DeltaMethod = "lora",
    *,
    estimator: str = "gradient:first-order",
    temperature: float = 0.5,
    top_k: int | None = None,
    how: str = "softmax",
    per_block: bool = False,
    budget: float | None = None,
    merge: str = AUTO,
    merge_options: Mapping[str, Any] | None = None,
    exclude: str | Iterable[str] = (),
    include_own: bool = False,
    examples: int | None = 64,
    guard: bool = True,
    guard_steps: int = 20,
    batch_size: int = 16,
    seed: int = 0,
    force: bool = False,
    auto: bool = False,
    explain: bool = False,
    say: Callable[[str], None] | None = None,
) -> Initialization:
    """Score the modules of a zoo against a target, weight and merge them, and judge the result.

    Args:
        target: A task, or a name or path that `load_task` knows.
        zoo: Where the source modules are: a `Zoo`, its folder, or modules. None is the user's zoo and the starter zoo.
        backbone: What the modules were trained on; a name is loaded, None is the embedded one.
        method: Of the modules: a name, or a method with settings, then only modules with these are taken.
        estimator: "family:variant", or a family alone for its default variant.
        temperature: Of the softmax over standardised scores, above 0.
        top_k: Source modules kept; None keeps all.
        how: "softmax", "uniform" or "best" by the scores alone; "learned", "search", "greedy" or "cluster" on the
            target's examples, beginning with the scores.
        per_block: Score, weigh and merge every block of the backbone by itself; with "learned", learn a weight for
            each module and block.
        budget: Seconds for a weighting on examples, or for `auto` (120 if not given); the best so far is taken when
            they are over, and it is said.
        auto: Try scratch, uniform, ties, best single, the families' scores and learned weights by short tunes on the
            examples, and take the one with the lowest loss on dev, scratch among them. Estimator, how and guard have
            no part in it.
        merge: Rule by which modules are merged; "auto" is `linear` where they share a start, else `svd` for LoRA.
        merge_options: Of the rule, such as {"rank": 16} or {"density": 0.2}.
        exclude: Task names and module ids that are left out, beside the target's own task. A name that the zoo does
            not have is said.
        include_own: Take modules of the target's own task, too.
        examples: To train on, and at most as many for dev, for a target given by name; None takes all there are.
        guard: Tune a few steps from the result and from scratch and compare; where it hurts, scratch is handed over.
        guard_steps: Of these tunes.
        batch_size: Examples a step.
        seed: Of data order, of short tunes and of drawing examples.
        force: Take modules of other backbones where the shapes fit; those of the backbone itself go first.
        explain: Put into the recipe what its page (`transfer.report`) draws: dev losses along the guard's tunes, and
            the norms of the modules by block.
        say: Called with each line that the user should read while it works; None logs them as warnings.
    Returns:
        The initialization with its recipe and its verdict; the backbone is left as it was found.
    Raises:
        ConfigError, UnknownNameError: a setting is outside its range or a name is not known.
        SourceError: no module fits, or one lacks what the estimator needs; says how to make some.
        DataError: the target's data cannot be used.
    """
    config = InitConfig(
        method=method,
        estimator=estimator,
        temperature=temperature,
        top_k=top_k,
        how=how,
        per_block=per_block,
        budget=budget,
        merge=merge,
        merge_options=merge_options or {},
        exclude=(exclude,) if isinstance(exclude, str) else tuple(exclude),
        include_own=include_own,
        examples=examples,
        guard=guard,
        guard_steps=guard_steps,
        batch_size=batch_size,
        seed=seed,
        force=force,
        auto=auto,
        explain=explain,
    )
    clock = Clock()
    task = target if isinstance(target, Task) else load_task(str(target), examples=config.examples, seed=config.seed)
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone or "embedded")
    clock.lap("load")
    return Job(config, task, loaded, opened(zoo), say or logger.warning, clock).run()
