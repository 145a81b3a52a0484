"""Which rule merges a set of modules, where the user leaves it open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transfer.ensembling import MERGES
from transfer.ensembling.compatible import acting_settings
from transfer.ensembling.rule import MergeRule
from transfer.errors import DeltaError
from zoo import Module
from zoo.shared_starts import Starts

AUTO = "auto"


def choose_rule(
    how: str, modules: Sequence[Module], options: Mapping[str, Any], average: bool = True
) -> tuple[MergeRule, str | None]:
    """The rule, with its options, and where it was chosen for the user a line that says why; None for `linear`.

    "auto" is `linear` where modules share a start and settings, and for methods that have nothing else; LoRA modules
    of different or unknown starts, ranks, scales or places are merged by `svd`, and so is LoRA with a rank asked for.

    Raises:
        UnknownNameError: no such rule.
        ConfigError: the rule has no such option.
        DeltaError: the rule does not take modules of this method.
    """
    why = None
    if how == AUTO:
        how, why = "linear", None
        if all(module.card.method == "lora" for module in modules):
            why = _against_linear(modules, average)
            if why is not None or options.get("rank") is not None or options.get("energy") is not None:
                how = "svd"
    rule: MergeRule = MERGES.get(how).with_options(options)
    others = [module for module in modules if rule.methods is not None and module.card.method not in rule.methods]
    if others:
        raise DeltaError(
            f"{rule.name!r} cannot merge {others[0].card.method} modules such as {others[0].id!r}",
            found=f"it takes {', '.join(sorted(rule.methods or ()))}",
            hint="--merge linear takes every method",
        )
    return rule, None if why is None else f"merged by svd, the sum of products B A cut to a rank: {why}"


def _against_linear(modules: Sequence[Module], average: bool) -> str | None:
    """Why LoRA modules are better not averaged tensor by tensor; None if they may be."""
    if len(modules) < 2:
        lost = not average and Starts().of(modules[0]) is None
        return f"the start of {modules[0].id} is not known, and its weight is not 1" if lost else None
    first, settings = modules[0], acting_settings(modules[0])
    for module in modules[1:]:
        theirs = acting_settings(module)
        differing = sorted(name for name in settings.keys() | theirs.keys() if settings.get(name) != theirs.get(name))
        if differing:
            return f"{first.id} and {module.id} differ in {', '.join(differing)}"
    starts = Starts()
    if starts.shared(modules):
        return None
    unknown = [module for module in modules if starts.of(module) is None]
    if unknown:
        return (
            f"the start of {len(unknown)} of {len(modules)} modules is not known ({unknown[0].id} for example), and "
            "A and B average well apart from each other only where modules share one"
        )
    return "the modules were trained from different starts, and A and B average well apart only where they share one"
