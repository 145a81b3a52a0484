"""A site: what a method puts at one place of a model, its parameters and its hooks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from transfer.deltas.modules import Part


class Holder(Part):
    """Holds what is called `<name>.weight` and `<name>.bias`."""

    weight: nn.Parameter
    bias: nn.Parameter


class Site(Part):
    """What a method puts at one place: parameters, and hooks that are bound methods (closures do not pickle).

    Parameters are registered under the local part of their canonical names, dots included:
    `adapter_down.weight` becomes a child `adapter_down` that holds `weight`.
    """

    def __init__(self, place: str, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.place = place
        self._rows: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            holder: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in holder._modules:
                    holder.add_module(part, Holder())
                holder = holder.get_submodule(part)
            holder.register_parameter(last, nn.Parameter(tensor.detach().clone()))

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        """Register this site's hooks on the module at its place; the handles take them off."""
        raise NotImplementedError(f"{type(self).__name__} has no hooks")

    def uninstall(self, module: nn.Module) -> None:
        """Undo what `install` did beside hooks; most sites have nothing to undo."""

    def train_rows(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Train these rows of parameters only: the gradients of the others are zero, whatever their values.

        Args:
            rows: Local name of a parameter -> boolean, one for each of its rows.
        """
        self._rows = dict(rows)
        for name, trained in self._rows.items():
            parameter = self.get_parameter(name)
            trains = parameter.requires_grad
            parameter.requires_grad_(True)  # a frozen one takes no hook, and may be thawed later
            parameter.register_hook(functools.partial(_rows_alone, trained))
            parameter.requires_grad_(trains)

    def n_trained(self, name: str) -> int:
        """How many values of a parameter learn, where it is trained at all."""
        parameter, rows = self.get_parameter(name), self._rows.get(name)
        return parameter.numel() if rows is None else parameter.numel() // len(rows) * int(rows.sum())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.train_rows(self._rows)  # neither copies nor pickles of a parameter keep its hooks

    def tensors(self) -> dict[str, torch.Tensor]:
        """Local name -> tensor, as stored. A site that trains something else folds it here."""
        return dict(self.named_parameters())

    @torch.no_grad()
    def load(self, name: str, tensor: torch.Tensor) -> None:
        """Copy `tensor` into the one of that local name, keeping dtype and device."""
        self.get_parameter(name).copy_(tensor)

    def passes_by(self, place: str) -> bool:
        """Whether it takes what the layer at a place gives without, or in place of, what hooks there make of it."""
        return False

    def changes(self, module: nn.Module) -> dict[str, torch.Tensor] | None:
        """Local parameter name of the module at the place -> what, added to it, acts as this site does.

        None where no change of parameters does that. A `bias` may be named that the module does not have.
        """
        return None


def _rows_alone(rows: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with zeros in all rows but these."""
    return gradient * rows.to(gradient).view(-1, *[1] * (gradient.dim() - 1))


def own_precision(x: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype of the delta, since a backbone in bf16 hands over bf16; autocast does its own casting."""
    if x.dtype == parameter.dtype or torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(parameter.dtype)
