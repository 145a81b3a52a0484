"""Going through modules on one backbone: attached once, then only tensors are copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.errors import ConfigError, DeltaError
from transfer.progress import track
from zoo import Module

T = TypeVar("T")


def method_of(module: Module) -> DeltaMethod:
    """The method of a stored module with the settings on its card.

    Raises:
        UnknownNameError: no such method. DeltaError: the card has settings that the method cannot take.
    """
    kind = METHODS.get(module.card.method)
    try:
        method: DeltaMethod = kind.from_settings(module.card.settings)
    except (ConfigError, DeltaError) as error:
        raise DeltaError(
            f"the settings of module {module.id!r} cannot be used",
            found=" ".join(str(error).split()),
            hint=f"leave it out: --exclude {module.id}; or out of the zoo: transfer zoo rm {module.id}",
        ) from error
    return method


def over_modules(
    backbone: Backbone,
    modules: Sequence[Module],
    function: Callable[[Any, Module], T],
    description: str = "scoring modules",
) -> list[T]:
    """Call `function(attached, module)` with each module's delta on the backbone; results in the order of `modules`.

    Modules of equal settings share what is attached (see `Switch`).

    Args:
        backbone: Left as it was found.
        modules: Of any settings.
        function: Reads the backbone; must not train the delta.
        description: Of the progress bar.
    """
    results = []
    with track(description, len(modules)) as progress, backbone.switching() as switch:
        for module in modules:
            results.append(function(switch.to(Delta.from_module(module)), module))
            progress(len(results))
    return results
