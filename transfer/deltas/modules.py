"""What the deltas ask of a model's modules: their names, their input and output sizes."""

from __future__ import annotations

import torch
from torch import nn

from transfer.deltas.dotted import joined
from transfer.errors import DeltaError


class Part(nn.Module):
    """Base of all modules that a delta puts on a model; they are never places for another delta."""


def inner_model(model: nn.Module) -> nn.Module:
    """The model that tensor names are relative to: the inner one of a `Backbone`, else `model` itself."""
    if hasattr(model, "tokenizer") and isinstance(getattr(model, "model", None), nn.Module):
        inner: nn.Module = model.model  # type: ignore[assignment]
        return inner
    return model


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module of the inner model by name, in model order, the root ("") first, without those of deltas."""
    found: dict[str, nn.Module] = {}
    _collect(inner_model(model), "", found, set())
    return found


def _collect(module: nn.Module, name: str, found: dict[str, nn.Module], seen: set[int]) -> None:
    if isinstance(module, Part) or id(module) in seen:
        return
    seen.add(id(module))
    found[name] = module
    for child_name, child in module.named_children():
        _collect(child, joined(name, child_name), found, seen)


def is_conv1d(module: nn.Module) -> bool:
    """True for GPT-2's convolution-as-linear, which holds its weight as (in, out)."""
    return hasattr(module, "nf") and hasattr(module, "nx") and isinstance(getattr(module, "weight", None), torch.Tensor)


def features(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) features of a linear layer, of GPT-2's Conv1D or of anything with both attributes; else None."""
    if is_conv1d(module):
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return sizes[0], sizes[1]
    return None


def embedding_features(module: nn.Module) -> tuple[int, int] | None:
    """(ids, width) of a layer that looks up rows of its weight by ids, which is a linear layer of one-hot rows.

    None for anything else, also for embeddings of positions that are given no ids.
    """
    if not isinstance(module, nn.Embedding):
        return None
    looks_up = type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")
    return (module.num_embeddings, module.embedding_dim) if looks_up else None


def embedding_scale(module: nn.Module) -> float:
    """What an embedding multiplies its rows with, as those of BART and Gemma do; 1 for others."""
    return float(getattr(module, "embed_scale", 1.0))


def linear_features(place: str, module: nn.Module, method: str) -> tuple[int, int]:
    """(in, out) features of the layer at `place`.

    Raises:
        DeltaError: the module there is no linear layer.
    """
    refuse_uncalled(place, module, method)
    sizes = features(module)
    if sizes is None:
        inside = [name for name, layer in module.named_modules() if features(layer) is not None]
        raise DeltaError(
            f"{method} cannot be put on {place!r}",
            found=f"a {type(module).__name__}, which has no in_features and out_features",
            hint=f"name a linear layer inside it: {', '.join(map(repr, inside[:6]))}"
            if inside
            else "name a linear layer in where=, for example 'attn.q' or 'ff.w2'",
        )
    return sizes


def refuse_uncalled(place: str, module: nn.Module, method: str) -> None:
    """Refuse the output layer of torch's own attention: its weight is read, it is never called, so no hook would run.

    Raises:
        DeltaError: it is one.
    """
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        raise DeltaError(
            f"{method} cannot be put on {place!r}",
            found="the output layer of an nn.MultiheadAttention, which reads its weight without calling it",
            hint=f"leave it out: exclude=({place!r},)",
        )


def device_of(module: nn.Module, fallback: nn.Module) -> torch.device:
    """Device of the first parameter or buffer of `module`, else of `fallback`, else the CPU.

    Of an offloaded module, whose tensors are away between two forwards, the device that it computes on.
    """
    for holder in (module, fallback):
        for tensor in (*holder.parameters(), *holder.buffers()):
            if tensor.device.type == "meta" and (runs_on := _computes_on(holder)) is not None:
                return runs_on
            return tensor.device
    return torch.device("cpu")


def _computes_on(module: nn.Module) -> torch.device | None:
    """The device that accelerate's hooks bring the tensors of a module to; None where it has none."""
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    found = (getattr(one, "execution_device", None) for hook in hooks for one in getattr(hook, "hooks", (hook,)))
    return next((torch.device(device) for device in found if device is not None), None)
