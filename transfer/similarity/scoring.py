"""score: a target task, a zoo and an estimator's name to one score per module."""

from __future__ import annotations

import time
from collections.abc import Iterable

from transfer.backbones.backbone import Backbone
from transfer.deltas.method import DeltaMethod
from transfer.errors import ConfigError
from transfer.similarity import ESTIMATORS
from transfer.similarity.scores import Scores
from transfer.similarity.sources import find_sources
from transfer.similarity.target import Target
from transfer.tasks import Task, load_task
from zoo import Module
from zoo.reading import ReadableZoo

DEFAULT = "gradient:first-order"


def score(
    target: Task | Target | str,
    zoo: ReadableZoo | Iterable[Module],
    backbone: Backbone,
    method: str | DeltaMethod = "lora",
    estimator: str = DEFAULT,
    exclude: str | Iterable[str] | None = None,
    seed: int = 0,
    force: bool = False,
    per_block: bool = False,
) -> Scores:
    """Score the modules of a zoo against a target task.

    Args:
        target: A task, its name or path, or a `Target`, which keeps what estimators share.
        zoo: A `Zoo`, or any iterable of modules.
        backbone: What the modules were trained on.
        method: Of the modules: a name, or a method with settings.
        estimator: "family:variant", or a family alone for its default variant.
        exclude: Task names or module ids to leave out. None leaves out the target's own task; nothing where a `Target`
            is given, whose modules were chosen before.
        seed: Of draws and short tunes; unused for a `Target`, which has its own.
        force: Take modules of other backbones too.
        per_block: Score every block of the backbone by itself, too: `scores.blocks`.
    Raises:
        UnknownNameError: no such estimator or task.
        ConfigError: the estimator does not score blocks.
        SourceError: no module fits, or one lacks what the estimator needs.
        DataError: the target's data cannot be used.
    """
    chosen = ESTIMATORS.get(estimator)()
    if per_block:
        check_per_block(estimator)
    begun = time.perf_counter()
    given = target if isinstance(target, Target | Task) else load_task(target)
    if exclude is None:
        exclude = () if isinstance(given, Target) else given.name
    modules = find_sources(zoo, backbone, method, exclude, force)
    if not isinstance(given, Target):
        given = Target.for_modules(given, backbone, modules, method, seed)
    values = chosen.score(given, modules)
    blocks = chosen.score_blocks(given, modules) if per_block else None
    return Scores([module.id for module in modules], values, chosen.name, time.perf_counter() - begun, blocks)


def check_per_block(estimator: str) -> None:
    """Refuse an estimator that does not score blocks: ConfigError."""
    if not ESTIMATORS.get(estimator).per_block:
        able = [name for name in ESTIMATORS.names() if ESTIMATORS.get(name).per_block]
        raise ConfigError(
            f"{ESTIMATORS.get(estimator).name} does not score blocks one by one",
            found=f"these do: {', '.join(able)}",
            hint=f"--estimator {able[0]}",
        )
