"""What a recipe says of a target, of the merged modules and of the start behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transfer.tasks import Task
from zoo import Module
from zoo.shared_starts import Starts

NO_WEIGHT = 1e-6  # a module that weighs no more leaves no trace in the result


def start_of_all(modules: Sequence[Module], scratch: str | None) -> tuple[str | None, str | None]:
    """(name, sha256) of the start that all of the modules were trained from, or (None, None) if there is none.

    Args:
        modules: What was merged; where nothing was, what could have been.
        scratch: sha256 of the start that is handed over in place of the merge; None where the merge is.
    """
    starts = Starts()
    digests = {module.id: starts.of(module) for module in modules}
    behind = scratch if scratch is not None else next(iter(digests.values()), None)
    named = [module.card.start for module in modules if digests[module.id] == behind and module.card.start is not None]
    if behind is None or not named or (scratch is None and set(digests.values()) != {behind}):
        return None, None
    return named[0], behind


def source_of(module: Module) -> dict[str, Any]:
    """What a recipe says of a merged module."""
    card = module.card
    return {
        "id": module.id,
        "task": card.task,
        "category": card.category,
        "license": card.license,
        "data": card.data.get("source"),
    }


def block_norms(modules: Sequence[Module]) -> dict[str, list[float]]:
    """Norm of the change in each block, of the modules whose signature has it."""
    found = {}
    for module in modules:
        norms = module.signature.block_norms
        if norms is not None:
            found[module.id] = [round(float(norm), 4) for norm in norms]
    return found


def described(task: Task) -> dict[str, Any]:
    """What a recipe says of the target."""
    return {
        "name": task.name,
        "kind": task.kind,
        "category": task.category,
        "source": task.source,
        "origin": task.origin,
        "license": task.license,
        "examples": task.examples,
        "sizes": task.sizes,
        "fields": list(task.fields),
        "template": task.template,
        "choices": task.labels,
        "fingerprint": task.fingerprint,
        "notes": list(task.notes),
    }
