"""Prefixes in DeBERTa's disentangled attention, which is not on the attention interface.

Its scores depend on content and on relative positions, computed inside. So the attention runs on `length` more
rows, in front of the text: their keys and values are replaced by the learned ones, their own outputs are cut off.
The prefix thus has relative positions, those of words standing before the text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from transfer.deltas.prefix_site import PrefixSite, sites_of
from transfer.errors import DeltaError


def is_disentangled(module: nn.Module) -> bool:
    """True for the attention of DeBERTa v2 and v3."""
    return hasattr(module, "disentangled_attention_bias") and hasattr(module, "key_proj")


class DebertaPrefixSite(PrefixSite):
    """A prefix at one disentangled attention."""

    _waiting: tuple[str, ...] = ()  # tensors that have not yet been put in place in this forward
    _offset: int = 0  # rows of other prefixes in front of this one's

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        key, value = module.get_submodule("key_proj"), module.get_submodule("value_proj")
        self.register(module)
        return [
            module.register_forward_pre_hook(self.extend, with_kwargs=True),
            module.register_forward_hook(self.cut),
            key.register_forward_hook(self.put_keys),
            value.register_forward_hook(self.put_values),
        ]

    def extend(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Pre-hook of the attention: `length` rows of zeros in front, seen by all."""
        names = ("hidden_states", "attention_mask", "output_attentions", "query_states", "relative_pos")
        given = {**dict(zip((*names, "rel_embeddings"), args, strict=False)), **kwargs}
        if given.get("query_states") is not None:
            raise DeltaError(
                f"the prefix at {self.place!r} cannot work with query states of their own",
                hint="use LoRA() or Adapter() on this model",
            )
        length = self.prefix_key.shape[0]
        given["hidden_states"] = functional.pad(given["hidden_states"], (0, 0, length, 0))
        mask = given["attention_mask"].bool()
        mask = mask.expand(*mask.shape[:2], mask.shape[-1], mask.shape[-1])
        given["attention_mask"] = functional.pad(mask, (length, 0, length, 0), value=True)
        given["relative_pos"] = None  # the attention counts them itself over all rows
        self._waiting = ("prefix_key", "prefix_value")
        # Each of several prefixes has added its rows; the one attached first takes those furthest in front.
        sites = sites_of(module)
        self._offset = sum(site.prefix_key.shape[0] for site in sites[: sites.index(self)])
        return (), given

    def put_keys(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Hook of key_proj. Its second call in a forward, if any, is for the position embeddings."""
        return self._put("prefix_key", output)

    def put_values(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Hook of value_proj."""
        return self._put("prefix_value", output)

    def cut(self, module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...]:
        """Hook of the attention: (batch, length + text, width) back to (batch, text, width).

        Raises:
            DeltaError: the attention never asked for its keys or values.
        """
        if self._waiting:
            raise DeltaError(
                f"the prefix at {self.place!r} was never used", hint="use LoRA() or Adapter() on this model"
            )
        length = self.prefix_key.shape[0]
        context, probabilities, *rest = output
        if probabilities is not None:
            probabilities = probabilities[:, :, length:]
        return (context[:, length:], probabilities, *rest)

    def _put(self, name: str, output: torch.Tensor) -> torch.Tensor | None:
        if name not in self._waiting:
            return None
        self._waiting = tuple(waiting for waiting in self._waiting if waiting != name)
        prefix = self.tensors()[name].to(output)
        rows = prefix.expand(output.shape[0], -1, -1)
        first, last = self._offset, self._offset + prefix.shape[0]
        return torch.cat([output[:, :first], rows, output[:, last:]], dim=1)
