"""Prefixes through the attention interface of transformers 5: one way for all models whose attention uses it.

For each attention implementation that can take a prefix an implementation of our own is registered, named after
it: `transfer_prefix_sdpa` puts the prefix in front and hands over to `sdpa`. A model's configs are switched to it
while a prefix is attached; attention modules without a prefix pass straight through.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from transfer.deltas.modules import Part
from transfer.deltas.prefix_site import PrefixSite, hide, sites_of
from transfer.deltas.site import Site
from transfer.errors import DeltaError

BASES = ("eager", "sdpa")  # flash and flex attention take no mask that a prefix could be added to
NAME = "transfer_prefix_"


def _forward_of(module: nn.Module) -> Any:
    """The forward as written in the model's file, without decorators."""
    return inspect.unwrap(type(module).forward)


def uses_interface(module: nn.Module) -> bool:
    """True if the module's forward looks its attention up in the interface of transformers."""
    code = getattr(_forward_of(module), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


class InterfacePrefixSite(PrefixSite):
    """A prefix at an attention module that uses the interface."""

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        self.register(module)
        return [module.register_forward_hook(self.verify)]

    def verify(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook: a prefix that the attention passed by must not look like one that works.

        Raises:
            DeltaError: the module has run and never asked for its prefix.
        """
        if not self.used:
            raise DeltaError(
                f"the prefix at {self.place!r} was never used",
                found=f"{type(module).__name__} ran past the attention interface",
                hint="load the model with attn_implementation='sdpa' before attaching, or use LoRA() or Adapter()",
            )
        self.used = False  # asked anew at every forward: the implementation may be changed under an attached prefix


class ImplementationSwitch(Site):
    """Switches every config of a model to the implementation with the prefix, and back when no prefix is left."""

    def __init__(self, place: str) -> None:
        super().__init__(place, {})

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        configs = _configs(module)
        for config in configs:
            current = config._attn_implementation or "eager"
            if not current.startswith(NAME) and current not in BASES:
                raise DeltaError(
                    f"a prefix cannot be added to the attention implementation {current!r}",
                    found=f"prefixes go with {', '.join(BASES)}",
                    hint="model.set_attn_implementation('sdpa')",
                )
        for config in configs:
            current = config._attn_implementation or "eager"
            if not current.startswith(NAME):
                # The property would also set the configs inside this one, which may have another implementation.
                config._attn_implementation_internal = NAME + current
        return []

    def uninstall(self, module: nn.Module) -> None:
        if any(sites_of(part) for part in module.modules()):
            return
        for config in _configs(module):
            config._attn_implementation_internal = (config._attn_implementation or "eager").removeprefix(NAME)


def _configs(model: nn.Module) -> list[Any]:
    configs = {
        id(config): config
        for module in model.modules()
        if not isinstance(module, Part)
        for config in [getattr(module, "config", None)]
        if hasattr(config, "_attn_implementation_internal")
    }
    return list(configs.values())


def _attend(
    base: str,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> Any:
    """Attention with the prefixes of `module` in front.

    query: (batch, heads, queries, head_width); key, value: (batch, kv_heads, keys, head_width), those of the cache
    included and not yet repeated over the heads; attention_mask: (batch, 1, queries, keys), boolean or additive.
    """
    function = _implementation(module, base)
    sites = sites_of(module)
    if not sites:
        return function(module, query, key, value, attention_mask, **kwargs)
    pairs = [site.keys_and_values(key.shape[0], key) for site in sites]
    for site in sites:
        site.used = True
    length = sum(pair[0].shape[2] for pair in pairs)
    if attention_mask is None:
        attention_mask = _causal_mask(base, module, query, key, kwargs)
    if attention_mask is not None:  # every token sees the prefix
        attention_mask = functional.pad(attention_mask, (length, 0), value=attention_mask.dtype == torch.bool)
    if kwargs.get("position_bias") is not None:  # T5: a prefix has no position, so no bias
        kwargs["position_bias"] = functional.pad(kwargs["position_bias"], (length, 0))
    key = torch.cat([*(pair[0] for pair in pairs), key], dim=2)
    value = torch.cat([*(pair[1] for pair in pairs), value], dim=2)
    seen = _seen(sites, key)
    if seen is not None:
        attention_mask = hide(attention_mask, seen, key.shape[2], query.dtype)
    return function(module, query, key, value, attention_mask, **kwargs)


def _seen(sites: list[PrefixSite], key: torch.Tensor) -> torch.Tensor | None:
    """(batch, length of all prefixes), True where a row sees them; None where every row sees all."""
    parts = [site.seen(key.shape[0], key.device) for site in sites]
    if all(part is None for part in parts):
        return None
    whole = torch.ones((), dtype=torch.bool, device=key.device)
    return torch.cat(
        [
            whole.expand(key.shape[0], site.length) if part is None else part
            for site, part in zip(sites, parts, strict=True)
        ],
        dim=1,
    )


def _causal_mask(
    base: str, module: nn.Module, query: torch.Tensor, key: torch.Tensor, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """The mask behind None: sdpa's own causal flag lines up the first query with the first key, here the prefix."""
    is_causal = kwargs.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", base == "sdpa")
    queries, keys = query.shape[2], key.shape[2]
    if not is_causal or queries == 1:
        return None
    rows = torch.arange(keys - queries, keys, device=query.device)[:, None]
    allowed = (torch.arange(keys, device=query.device)[None, :] <= rows)[None, None]
    if base == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, torch.finfo(query.dtype).min)


def _implementation(module: nn.Module, base: str) -> Callable[..., Any]:
    """What the module's own file would have called: models may override an implementation for themselves."""
    names = _forward_of(module).__globals__
    function: Callable[..., Any] | None = names["ALL_ATTENTION_FUNCTIONS"].get_interface(
        base, names.get("eager_attention_forward")
    )
    if function is None:
        raise DeltaError(
            f"{type(module).__name__} has no {base} attention that a prefix could be added to",
            hint="model.set_attn_implementation('sdpa')",
        )
    return function


def _mask(base: str, *args: Any, **kwargs: Any) -> torch.Tensor | None:
    """The base's mask, written out: it must not be left to sdpa's causal flag (see `_causal_mask`)."""
    kwargs["allow_is_causal_skip"] = False
    mask: torch.Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[base](*args, **kwargs)
    return mask


# At import, so that a model unpickled in another process finds them: its sites import this file.
for _base in BASES:
    AttentionInterface.register(NAME + _base, functools.partial(_attend, _base))
    AttentionMaskInterface.register(NAME + _base, functools.partial(_mask, _base))
