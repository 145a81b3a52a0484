"""Going through modules on one backbone: attached once, then only tensors are copied."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.progress import track
from zoo import Module

T = TypeVar("T")


def method_of(module: Module) -> DeltaMethod:
    """The method of a stored module with the settings on its card.

    Raises:
        UnknownNameError: no such method. DeltaError: the card has a setting that the method does not know.
    """
    method: DeltaMethod = METHODS.get(module.card.method).from_settings(module.card.settings)
    return method


def over_modules(
    backbone: Backbone,
    modules: Sequence[Module],
    function: Callable[[Any, Module], T],
    tensors: Sequence[Mapping[str, Tensor]] | None = None,
    description: str = "scoring modules",
) -> list[T]:
    """Call `function(attached, module)` with each module's delta on the backbone; results in the order of `modules`.

    Modules of equal settings come one after the other, so that they share what is attached (see `Switch`).

    Args:
        backbone: Left as it was found.
        modules: Of any settings.
        function: Reads the backbone; must not train the delta.
        tensors: For each module what to attach in place of its own tensors.
        description: Of the progress bar.
    """
    groups: dict[str, list[int]] = {}
    for index, module in enumerate(modules):
        settings = json.dumps([module.card.method, module.card.settings], sort_keys=True)
        groups.setdefault(settings, []).append(index)
    results: dict[int, T] = {}
    with track(description, len(modules)) as progress, backbone.switching() as switch:
        for index in (index for indices in groups.values() for index in indices):
            own = modules[index].tensors(dtype=torch.float32) if tensors is None else tensors[index]
            attached = switch.to(Delta(method_of(modules[index]), dict(own)))
            results[index] = function(attached, modules[index])
            progress(len(results))
    return [results[index] for index in range(len(modules))]
