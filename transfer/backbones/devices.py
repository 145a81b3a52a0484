"""Where a backbone computes, and how precisely."""

from __future__ import annotations

import torch

from transfer.errors import ConfigError


def device_named(name: str | None) -> torch.device:
    """The torch device of that name; None is CUDA where there is one.

    Raises:
        ConfigError: there is none here that holds values.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, ImportError) as error:  # each kind of device fails in a way of its own
        found = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise ConfigError(f"no device {name!r}", found=found, hint="device='cpu' or 'cuda'") from error
    if where.type == "meta":
        raise ConfigError(f"no device {name!r} for a backbone", found="meta holds no values", hint="device='cpu'")
    return where


def precision_on(device: torch.device, asked: str = "auto") -> str:
    """ "fp32" or "bf16": what is asked for, or what the device computes in.

    Raises:
        ConfigError: no such precision.
    """
    if asked not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"no precision {asked!r}", hint="--precision auto, fp32 or bf16")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_computes_bf16() else "fp32"


def _cpu_computes_bf16() -> bool:
    """AVX-512 BF16 or AMX; elsewhere bf16 is emulated and slower than fp32. torch has no public question for it."""
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asks if ask is not None)
