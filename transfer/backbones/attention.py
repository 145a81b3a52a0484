"""Attention in fp32 where its gradient in bf16 would take many times as long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


def quick_gradients(model: nn.Module, device: str) -> AbstractContextManager[Any]:
    """`PreciseAttention` on a CPU where gradients are wanted; nothing else.

    Nor where the forward pass is traced, or run again in the backward pass: no mode of ours holds there.
    """
    if device != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return nullcontext() if again else PreciseAttention()


class PreciseAttention(TorchFunctionMode):
    """Inside it, attention on bf16 tensors of a CPU is computed in fp32; its output is bf16 again.

    The backward pass of the bf16 kernel is slow on CPUs (torch 2.13, 16 x 12 heads of 32, 32 tokens: 14 ms; in fp32
    2 ms): almost a third of a training step on short texts.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is not scaled_dot_product_attention:
            return func(*args, **named)
        query = args[0] if args else named["query"]
        if query.device.type != "cpu" or query.dtype != torch.bfloat16:
            return func(*args, **named)
        args = tuple(_raised(value) for value in args)
        with torch.autocast("cpu", enabled=False):
            found = func(*args, **{name: _raised(value) for name, value in named.items()})
        return found.to(torch.bfloat16)


def _raised(value: Any) -> Any:
    """A bf16 tensor in fp32; anything else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
