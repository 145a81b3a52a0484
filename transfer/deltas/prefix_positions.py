"""Positions behind a prefix: the text's positions start after it, as they do when a prefix sits in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from transfer.deltas.modules import named_modules
from transfer.deltas.site import Site
from transfer.errors import DeltaError

LEARNED = ("position_embeddings", "wpe", "embed_positions")
ROTARY = ("rotary_emb",)


def position_modules(model: nn.Module) -> list[str]:
    """Names of the modules that turn position ids into embeddings, learned or rotary; those of the text only."""
    found = []
    for name, module in named_modules(model).items():
        last = name.rpartition(".")[2]
        if (last in LEARNED and isinstance(module, nn.Embedding)) or last in ROTARY:
            found.append(name)
    return found


def rows_for_text(table: nn.Embedding) -> int:
    """Rows of a table of positions that tokens can have: RoBERTa's begin behind the padding id, OPT's at an offset."""
    offset = getattr(table, "offset", 0)
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - max(first, offset if isinstance(offset, int) else 0)


def _holds_positions(argument: Any, module: nn.Module) -> bool:
    """An embedding of a class of its own may take masks or token ids first and work out the positions itself."""
    if isinstance(module, nn.Embedding) and type(module).forward is not nn.Embedding.forward:
        return False
    return isinstance(argument, torch.Tensor) and not argument.is_floating_point()


class PositionShift(Site):
    """Adds the prefix's length to the position ids on their way into one module."""

    def __init__(self, place: str, length: int) -> None:
        super().__init__(place, {})
        self.length = length

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_pre_hook(self.shift, with_kwargs=True)]

    def shift(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Forward pre-hook of `embedding(ids)`, `embed_positions(..., position_ids=ids)`, `rotary(hidden, ids, ...)`.

        Raises:
            DeltaError: text and prefix together are longer than the model has positions for, or the module is
                called in a way that does not show its positions.
        """
        for name in ("position_ids", "input"):
            if isinstance(kwargs.get(name), torch.Tensor):
                return args, {**kwargs, name: self._shifted(kwargs[name], module)}
        at = 0 if isinstance(module, nn.Embedding) else 1
        if len(args) <= at or not _holds_positions(args[at], module):
            raise DeltaError(
                f"the positions that go into {self.place!r} cannot be shifted",
                found=f"{type(module).__name__} is called in a way of its own",
                hint="Prefix(position_shift=False)",
            )
        return (*args[:at], self._shifted(args[at], module), *args[at + 1 :]), kwargs

    def longest(self, ids: torch.Tensor) -> int:
        """The most that any of these ids is shifted by; at most `length`."""
        return self.length

    def add(self, ids: torch.Tensor) -> torch.Tensor:
        """The ids (..., text) of the text behind the prefix."""
        return ids + self.length

    def _shifted(self, ids: torch.Tensor, module: nn.Module) -> torch.Tensor:
        known = rows_for_text(module) if isinstance(module, nn.Embedding) else None
        if known is not None and ids.shape[-1] + self.length > known:
            longest = self.longest(ids)
            if ids.shape[-1] + longest > known:
                raise DeltaError(
                    f"{ids.shape[-1]} tokens and a prefix of {longest} are more than the model has positions for",
                    found=f"{known} positions",
                    hint=f"cut the text to {known - longest} tokens, or Prefix(position_shift=False)",
                )
        return self.add(ids)
