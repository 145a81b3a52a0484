"""merge: modules and weights to one delta."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from transfer.ensembling import MERGES
from transfer.ensembling.rule import MergeRule
from transfer.errors import ConfigError, DeltaError
from zoo import Module

if TYPE_CHECKING:
    from transfer.deltas.delta import Delta
    from zoo.reading import ReadableZoo

logger = logging.getLogger(__name__)


def merge(
    zoo: ReadableZoo | Iterable[Module],
    weights: Mapping[str, float],
    how: str = "linear",
    say: Callable[[str], None] | None = None,
) -> Delta:
    """Merge stored modules into one delta, computed in fp32.

    Args:
        zoo: Where the modules are: a `Zoo`, or the modules themselves.
        weights: Module id -> weight, as `weigh` gives them; others may be any finite numbers where the rule takes
            them. A module at weight 0 has no part in the merge and is not read.
        how: Name of a rule in `MERGES`.
        say: Called with each line on what may be wrong with the merge; None logs them as warnings.
    Raises:
        UnknownNameError: no such rule.
        ConfigError: there are no weights, or one is not a finite number.
        UnknownModuleError, DeltaError: a module is not there.
        DeltaError: the modules cannot be merged in this way; names them.
    """
    rule: MergeRule = MERGES.get(how)()
    for module_id, weight in weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"the weight of module {module_id!r} is {weight!r}, not a finite number")
    if not weights:
        raise ConfigError("there are no weights, so there is nothing to merge", hint="weigh(scores) makes some")
    # Sorted: sums of floats must not depend on the order in which modules were found.
    wanted = sorted(module_id for module_id, weight in weights.items() if weight)
    modules = _find(zoo, wanted or [min(weights)])
    others = [module for module in modules if rule.methods is not None and module.card.method not in rule.methods]
    if others:
        raise DeltaError(
            f"{how!r} cannot merge {others[0].card.method} modules such as {others[0].id!r}",
            found=f"it takes {', '.join(sorted(rule.methods or ()))}",
            hint="how='linear' takes every method",
        )
    for line in rule.remarks(modules):
        (say or logger.warning)(line)
    return rule.merge(modules, {module.id: float(weights[module.id]) for module in modules})


def _find(zoo: ReadableZoo | Iterable[Module], ids: list[str]) -> list[Module]:
    get = getattr(zoo, "get", None)
    # A mapping's `get` would hand back None for what it lacks.
    if get is not None and not isinstance(zoo, Mapping):
        return [get(module_id) for module_id in ids]
    there = {module.id: module for module in (zoo.values() if isinstance(zoo, Mapping) else zoo)}
    missing = [module_id for module_id in ids if module_id not in there]
    if missing:
        raise DeltaError(
            f"module {missing[0]!r} has a weight but is not among the modules",
            found=f"{len(there)} modules, {len(missing)} of {len(ids)} weights for others",
        )
    return [there[module_id] for module_id in ids]
