"""Positions behind a prefix: the text's positions start after it, as they do when a prefix sits in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from transfer.deltas.attached import Site
from transfer.deltas.modules import named_modules
from transfer.errors import DeltaError

LEARNED = ("position_embeddings", "wpe")
ROTARY = ("rotary_emb",)


def position_modules(model: nn.Module) -> list[str]:
    """Names of the modules that turn position ids into embeddings, learned or rotary; those of the text only."""
    found = []
    for name, module in named_modules(model).items():
        last = name.rpartition(".")[2]
        if (last in LEARNED and isinstance(module, nn.Embedding)) or last in ROTARY:
            found.append(name)
    return found


class PositionShift(Site):
    """Adds the prefix's length to the position ids on their way into one module."""

    def __init__(self, place: str, length: int) -> None:
        super().__init__(place, {})
        self.length = length

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_pre_hook(self.shift, with_kwargs=True)]

    def shift(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Forward pre-hook of `embedding(ids)` and `rotary(hidden, position_ids)`.

        Raises:
            DeltaError: text and prefix together are longer than the model has positions for.
        """
        for name in ("position_ids", "input"):
            if name in kwargs:
                return args, {**kwargs, name: self._shifted(kwargs[name], module)}
        *first, ids = args
        return (*first, self._shifted(ids, module)), kwargs

    def _shifted(self, ids: torch.Tensor, module: nn.Module) -> torch.Tensor:
        if isinstance(module, nn.Embedding) and ids.shape[-1] + self.length > module.num_embeddings:
            raise DeltaError(
                f"{ids.shape[-1]} tokens and a prefix of {self.length} are more than the model has positions for",
                found=f"{module.num_embeddings} positions",
                hint=f"cut the text to {module.num_embeddings - self.length} tokens, or Prefix(position_shift=False)",
            )
        return ids + self.length
