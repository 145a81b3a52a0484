"""Prefixes in attentions that are not on the attention interface: the attention runs on more rows.

`length` rows are put in front of the text, their keys and values are replaced by the learned ones, and their own
outputs are cut off. What the scores depend on beside content (masks, relative positions) is extended by one
function for each kind of attention, in `KINDS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from transfer.deltas.prefix_site import PrefixSite, hide, sites_of
from transfer.errors import DeltaError

Arguments = dict[str, Any]  # of the attention's forward, by name


def _deberta(given: Arguments, length: int) -> Arguments:
    """DeBERTa v2 and v3: the attention counts relative positions itself; the prefix stands before the text."""
    mask = given["attention_mask"].bool()
    mask = mask.expand(*mask.shape[:2], mask.shape[-1], mask.shape[-1])  # (batch, 1, text, text)
    seen = functional.pad(mask, (length, 0, length, 0), value=True)
    return {"attention_mask": seen, "relative_pos": None}


def _mpnet(given: Arguments, length: int) -> Arguments:
    """MPNet: additive mask and bias; a prefix has no position, so no bias."""
    extended: Arguments = {}
    if given.get("attention_mask") is not None:  # (batch, 1, 1 or text, text)
        mask = given["attention_mask"]
        extended["attention_mask"] = functional.pad(mask, (length, 0, length if mask.shape[-2] > 1 else 0, 0))
    if given.get("position_bias") is not None:  # (batch, heads, text, text)
        extended["position_bias"] = functional.pad(given["position_bias"], (length, 0, length, 0))
    return extended


@dataclass(frozen=True)
class Kind:
    """One attention off the interface.

    Args:
        key: Name of the layer that gives the keys.
        value: Name of the layer that gives the values.
        extend: The forward's arguments and the length -> those that change; hidden states are done already.
    """

    key: str
    value: str
    extend: Callable[[Arguments, int], Arguments]


# Class of the attention -> how it takes more rows
KINDS: Mapping[str, Kind] = {
    "transformers.models.deberta_v2.modeling_deberta_v2.DisentangledSelfAttention": Kind(
        "key_proj", "value_proj", _deberta
    ),
    "transformers.models.mpnet.modeling_mpnet.MPNetSelfAttention": Kind("k", "v", _mpnet),
}


def kind_of(module: nn.Module) -> Kind | None:
    """How the attention takes more rows, or None if it is not known to."""
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__)
    return next((KINDS[name] for name in names if name in KINDS), None)


class RowsPrefixSite(PrefixSite):
    """A prefix at one attention that runs on more rows."""

    _names: tuple[str, ...]  # of the arguments of the attention's forward
    _extend: Callable[[Arguments, int], Arguments]
    _waiting: tuple[str, ...] = ()  # tensors that have not yet been put in place in this forward
    _offset: int = 0  # rows of other prefixes in front of this one's

    def passes_by(self, place: str) -> bool:
        return place.startswith(f"{self.place}.")

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        kind = kind_of(module)
        if kind is None:
            raise DeltaError(f"{type(module).__name__} at {self.place!r} cannot take a prefix")
        # The first parameter of forward is the module itself.
        self._names = tuple(inspect.signature(type(module).forward).parameters)[1:]
        self._extend = kind.extend
        self.register(module)
        return [
            module.register_forward_pre_hook(self.extend, with_kwargs=True),
            module.register_forward_hook(self.cut),
            module.get_submodule(kind.key).register_forward_hook(self.put_keys),
            module.get_submodule(kind.value).register_forward_hook(self.put_values),
        ]

    def extend(self, module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[Any, Any]:
        """Pre-hook of the attention: `length` rows of zeros in front, seen by all."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if given.get("query_states") is not None:
            raise DeltaError(
                f"the prefix at {self.place!r} cannot work with query states of their own",
                hint="use LoRA() or Adapter() on this model",
            )
        hidden = functional.pad(given["hidden_states"], (0, 0, self.length, 0))
        given |= {"hidden_states": hidden, **self._extend(given, self.length)}
        seen = self.seen(hidden.shape[0], hidden.device)
        if seen is not None:
            given["attention_mask"] = hide(given.get("attention_mask"), seen, hidden.shape[1], hidden.dtype)
        self._waiting = ("prefix_key", "prefix_value")
        # Each of several prefixes has added its rows; the one attached first takes those furthest in front.
        sites = sites_of(module)
        self._offset = sum(site.length for site in sites[: sites.index(self)])
        return (), given

    def put_keys(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Hook of the key layer. A second call in one forward, as DeBERTa makes, is for position embeddings."""
        return self._put("prefix_key", output)

    def put_values(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        """Hook of the value layer."""
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
        context, *rest = output
        if rest and rest[0] is not None:  # probabilities: (batch, heads, queries, keys)
            rest[0] = rest[0][:, :, self.length :]
        return (context[:, self.length :], *rest)

    def _put(self, name: str, output: torch.Tensor) -> torch.Tensor | None:
        if name not in self._waiting:
            return None
        self._waiting = tuple(waiting for waiting in self._waiting if waiting != name)
        rows = self.rows_of(name, output.shape[0]).to(output)
        first, last = self._offset, self._offset + self.length
        return torch.cat([output[:, :first], rows, output[:, last:]], dim=1)
