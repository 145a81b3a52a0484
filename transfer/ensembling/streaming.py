"""Reading modules for a merge: tensor by tensor, in groups, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from transfer.deltas.delta import Delta
from transfer.ensembling.block_weights import Weights
from transfer.errors import DeltaError
from transfer.similarity.switching import method_of
from zoo import Module

CHUNK = 1 << 22  # values of one tensor of a group in memory at once: 16 MiB in fp32
MOST_OPEN = 128  # files of a group that are mapped at once


class Stacked(NamedTuple):
    """One tensor of each module of a group."""

    name: str
    ids: list[str]
    values: Tensor  # (modules of the group, *shape), fp32, a copy
    weights: Tensor  # (modules of the group,), fp32


def groups(modules: Sequence[Module], values: int) -> Iterator[Sequence[Module]]:
    """Modules in the order given, as many at once as have `values` values each without passing a chunk."""
    size = max(1, min(MOST_OPEN, CHUNK // max(values, 1)))
    for begin in range(0, len(modules), size):
        yield modules[begin : begin + size]


def stacks(modules: Sequence[Module], weights: Weights) -> Iterator[Stacked]:
    """Every tensor of every module, group by group and in each tensor by tensor.

    Memory: one tensor of one group, at most a chunk (16 MiB, or one tensor if that is larger), whatever the number of
    modules. Each module is opened once.

    Raises:
        DeltaError: tensors of two modules differ in name or shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in modules[0].tensors().items()}
    largest = max(_size(shape) for shape in shapes.values())
    for group in groups(modules, largest):
        opened = [module.tensors() for module in group]
        for module, tensors in zip(group, opened, strict=True):
            check_names(modules[0], shapes, module, tensors)
        ids = [module.id for module in group]
        for name, shape in shapes.items():
            values = torch.empty((len(group), *shape))
            for row, module, tensors in zip(values, group, opened, strict=True):
                tensor = tensors[name]
                if tuple(tensor.shape) != shape:
                    raise other_shape(modules[0], module, name, shape, tuple(tensor.shape))
                row.copy_(tensor.detach())
            yield Stacked(name, ids, values, torch.from_numpy(weights.many(ids, name)).float())


def check_names(first: Module, names: Mapping[str, object], module: Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a module that has other tensors than the first, though their settings agree."""
    if names.keys() != set(tensors):
        raise DeltaError(f"{first.id!r} and {module.id!r} have other tensors, though their settings agree")


def other_shape(first: Module, module: Module, name: str, shape: tuple[int, ...], found: tuple[int, ...]) -> DeltaError:
    """Two modules whose tensors of one name have different shapes."""
    return DeltaError(
        f"{first.id!r} and {module.id!r} cannot be merged tensor by tensor: {name} differs in shape",
        found=f"{shape} and {found}",
        hint=f"leave one kind out: --exclude {module.id}",
    )


def delta_like(module: Module, tensors: Mapping[str, Tensor]) -> Delta:
    """A delta with the settings of a module, its tensors in the module's order."""
    return Delta(method_of(module), {name: tensors[name] for name in module.tensors()}, dict(module.card.settings))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
