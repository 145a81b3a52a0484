"""Going through modules on one backbone: attached once, then only the tensors are exchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.method import DeltaMethod
from transfer.progress import track
from transfer.similarity.capture import direct
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

    Modules of equal settings share one attached delta, into which tensors are copied: a tenth of the time of
    attaching anew.

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
    with track(description, len(modules)) as progress:
        for indices in groups.values():
            method = direct(method_of(modules[indices[0]]))
            first = dict(_tensors(modules, tensors, indices[0]))
            with backbone.use(method, first) as attached:
                for index in indices:
                    if index != indices[0]:
                        attached.load_state_dict(dict(_tensors(modules, tensors, index)))
                    results[index] = function(attached, modules[index])
                    progress(len(results))
    return [results[index] for index in range(len(modules))]


def _tensors(
    modules: Sequence[Module], tensors: Sequence[Mapping[str, Tensor]] | None, index: int
) -> Mapping[str, Tensor]:
    return modules[index].tensors(dtype=torch.float32) if tensors is None else tensors[index]
