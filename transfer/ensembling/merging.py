"""merge: modules and weights to one delta."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer.ensembling.block_weights import Weights, WeightTable
from transfer.ensembling.choosing import AUTO, choose_rule
from transfer.errors import DeltaError
from transfer.similarity.sources import places_of
from zoo import Module, Zoo

if TYPE_CHECKING:
    from transfer.deltas.delta import Delta
    from zoo.reading import ReadableZoo

logger = logging.getLogger(__name__)


def merge(
    zoo: ReadableZoo | Iterable[Module] | str | Path,
    weights: WeightTable,
    how: str = AUTO,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Delta:
    """Merge stored modules into one delta, computed in fp32.

    Args:
        zoo: Where the modules are: a `Zoo`, its folder, or the modules themselves.
        weights: Module id -> weight, as `weigh` gives them; others may be any finite numbers where the rule takes
            them. Or module id -> (blocks,) weights, one for each block of the backbone. A module at weight 0 has no
            part in the merge and is not read.
        how: Name of a rule in `MERGES`; "auto" is `linear` for modules with a shared start, else `svd` for LoRA.
        say: Called with each line on what may be wrong with the merge; None logs them as warnings.
        options: Of the rule: `rank`, `energy`, `density`, `seed`, ...
    Raises:
        UnknownNameError: no such rule.
        ConfigError: there are no weights, one is not a finite number, or the rule has no such option.
        UnknownModuleError, DeltaError: a module is not there.
        DeltaError: the modules cannot be merged in this way; names them.
    """
    if isinstance(zoo, str | Path):
        zoo = Zoo(zoo)
    elif isinstance(zoo, Iterator):
        zoo = list(zoo)  # it is looked through twice
    wanted = nonzero(weights)
    modules = _find(zoo, wanted or [min(weights)] if weights else [])
    table = Weights(weights, _all_places(zoo, weights, modules))
    rule, why = choose_rule(how, modules, options, table.average_only(module.id for module in modules))
    for line in [*([why] if why else []), *rule.remarks(modules)]:
        (say or logger.warning)(line)
    if not rule.signed:
        _check_signs(rule.name, modules, table)
    return rule.merge(modules, table)


def nonzero(weights: WeightTable) -> list[str]:
    """Ids of the modules that weigh something somewhere, sorted: sums must not depend on the order they are found."""
    return sorted(module_id for module_id, weight in weights.items() if np.any(np.asarray(weight, dtype=object) != 0))


def _all_places(zoo: ReadableZoo | Iterable[Module], weights: WeightTable, modules: list[Module]) -> list[str]:
    """The places that say how many blocks a table has, of modules at weight 0 too; none where weights are numbers."""
    if all(np.ndim(weight) == 0 for weight in weights.values()):
        return []
    there = {module.id: module for module in modules}
    rest = sorted(module_id for module_id in weights if module_id not in there)
    return places_of([*modules, *_find(zoo, rest)])


def _check_signs(how: str, modules: list[Module], weights: Weights) -> None:
    for module in modules:
        if (weights.row(module.id) < 0).any():
            raise DeltaError(
                f"{how!r} takes weights of at least 0, and that of {module.id!r} is {weights.row(module.id).min():.6g}",
                hint="--merge svd takes any for LoRA, --merge task-arithmetic for modules with a shared start",
            )


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
