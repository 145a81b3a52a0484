"""score: a target task, a zoo and an estimator's name to one score per module."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from transfer.backbones import load_backbone
from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.method import DeltaMethod
from transfer.errors import ConfigError
from transfer.similarity import ESTIMATORS
from transfer.similarity.scores import Scores
from transfer.similarity.sources import AnyZoo, find_sources
from transfer.similarity.target import Target
from transfer.tasks import Task, load_task

DEFAULT = "gradient:first-order"


def score(
    target: Task | Target | str | Path,
    zoo: AnyZoo = None,
    backbone: Backbone | str | None = None,
    method: str | DeltaMethod | None = None,
    estimator: str = DEFAULT,
    exclude: str | Iterable[str] = (),
    seed: int = 0,
    force: bool = False,
    per_block: bool = False,
    *,
    include_own: bool = False,
) -> Scores:
    """Score the modules of a zoo against a target task.

    Args:
        target: A task, its name or path, or a `Target`, which keeps what estimators share.
        zoo: Where the modules are: a `Zoo`, its folder, or modules. None is the user's zoo and the starter zoo.
        backbone: What the modules were trained on; a name is loaded, None is that of a `Target`, else the embedded one.
        method: Of the modules: a name, or a method with settings; None is that of a `Target`, else "lora".
        estimator: "family:variant", or a family alone for its default variant.
        exclude: Task names and module ids that are left out, beside the target's own task.
        seed: Of draws and short tunes, at least 0; unused for a `Target`, which has its own.
        force: Take modules of other backbones too.
        per_block: Score every block of the backbone by itself, too: `scores.blocks`.
        include_own: Take modules of the target's own task, too.
    Returns:
        A score for each module, the time to load task and backbone not counted.
    Raises:
        UnknownNameError: no such estimator or task.
        ConfigError: the estimator does not score blocks, the seed is negative, or a `Target` has another method or
            backbone.
        SourceError: no module fits, or one lacks what the estimator needs.
        DataError: the target's data cannot be used.
    """
    chosen = ESTIMATORS.get(estimator)()
    if per_block:
        check_per_block(estimator)
    given = target if isinstance(target, Target | Task) else load_task(str(target))
    if backbone is None and isinstance(given, Target):
        backbone = given.backbone
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone or "embedded")
    if method is None:
        method = given.method.method if isinstance(given, Target) else "lora"
    if isinstance(given, Target):
        _check_same(given, loaded, method)
    begun = time.perf_counter()
    task = given.task if isinstance(given, Target) else given
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    modules = find_sources(zoo, loaded, method, excluded if include_own else {task.name, *excluded}, force)
    if not isinstance(given, Target):
        given = Target.for_modules(given, loaded, modules, method, seed)
    values, blocks = chosen.score_blocks(given, modules) if per_block else (chosen.score(given, modules), None)
    return Scores([module.id for module in modules], values, chosen.name, time.perf_counter() - begun, blocks)


def _check_same(target: Target, backbone: Backbone, method: str | DeltaMethod) -> None:
    """Refuse a method or a backbone that is not the target's own: what it keeps is of these."""
    name = method if isinstance(method, str) else method.method
    if METHODS.resolve(name) != target.method.method:
        raise ConfigError(
            f"the target was made for {target.method.method!r}, not for {name!r}",
            hint=f'method="{target.method.method}", or a Target with method="{name}"',
        )
    if backbone.fingerprint != target.backbone.fingerprint:
        raise ConfigError(
            f"the target is on another backbone than {backbone.name!r}",
            found=target.backbone.name,
            hint="leave backbone out, or a Target on that backbone",
        )


def check_per_block(estimator: str) -> None:
    """Refuse an estimator that does not score blocks: ConfigError."""
    if not ESTIMATORS.get(estimator).per_block:
        able = [name for name in ESTIMATORS.names() if ESTIMATORS.get(name).per_block]
        raise ConfigError(
            f"{ESTIMATORS.get(estimator).name} does not score blocks one by one",
            found=f"these do: {', '.join(able)}",
            hint=f"--estimator {able[0]}",
        )
