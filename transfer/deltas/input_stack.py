"""Where a model takes in embeddings: the stack of layers that reads `inputs_embeds` in place of token ids."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from transfer.deltas.modules import inner_model, named_modules
from transfer.errors import DeltaError


def input_place(model: nn.Module) -> str:
    """Name of the input embeddings of the encoder, or of the model where it has no encoder apart.

    Raises:
        DeltaError: the model takes no embeddings in place of token ids.
    """
    modules, takers, whole = named_modules(model), _takers(model), _encoder_decoder(model)
    if whole is not None:
        takers = [name for name in takers if modules[name] is whole.get_encoder()]
    if not takers:
        raise DeltaError(
            f"a soft prompt cannot be put on {type(inner_model(model)).__name__}",
            found=f"its {'model' if whole is None else 'encoder'} takes no inputs_embeds in place of token ids",
            hint="use LoRA() or Adapter() on this model",
        )
    embeddings = _embeddings(modules[_innermost(modules, takers)])
    return next(name for name, module in modules.items() if module is embeddings)


def stack_of(model: nn.Module, place: str) -> str:
    """Name of the stack whose input embeddings are the module at `place`; an encoder's goes before a decoder's.

    Raises:
        DeltaError: it is the input of no stack.
    """
    modules, whole = named_modules(model), _encoder_decoder(model)
    takers = [name for name in _takers(model) if _embeddings(modules[name]) is modules[place]]
    if not takers:
        raise DeltaError(
            f"a soft prompt cannot be put on {place!r}",
            found=f"{type(inner_model(model)).__name__} does not read its input through this "
            f"{type(modules[place]).__name__}",
            hint="leave where= out: it finds the input embeddings",
        )
    encoder = [name for name in takers if whole is not None and modules[name] is whole.get_encoder()]
    return encoder[0] if encoder else _innermost(modules, takers)


def reader_of(model: nn.Module, stack: str) -> str | None:
    """Name of the decoder that looks at what this encoder gives; None where nothing does."""
    modules, whole = named_modules(model), _encoder_decoder(model)
    if whole is None or whole.get_encoder() is not modules[stack]:
        return None
    return next(name for name, module in modules.items() if module is whole.get_decoder())


def argument_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward, in order, as written in the model's file."""
    return tuple(inspect.signature(inspect.unwrap(type(module).forward)).parameters)[1:]


def embed(stack: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What the stack makes of token ids before anything else: (..., width)."""
    embeddings: Any = _embeddings(stack)
    found: torch.Tensor = embeddings(ids)
    # Marian, Pegasus and a few others scale what they have looked up, but not what they are given.
    scale = getattr(stack, "embed_scale", None)
    if isinstance(scale, int | float) and getattr(embeddings, "embed_scale", None) is None:
        found = found * scale
    return found


def _takers(model: nn.Module) -> list[str]:
    """Modules that read embeddings in place of token ids, outermost first."""
    return [
        name
        for name, module in named_modules(model).items()
        if hasattr(module, "get_input_embeddings")
        and "inputs_embeds" in argument_names(module)
        and _embeddings(module) is not None
    ]


def _innermost(modules: dict[str, nn.Module], takers: list[str]) -> str:
    """The one around which the others are only shells: they hold the same embeddings."""
    chosen = takers[0]
    for name in takers[1:]:
        inside = not chosen or name.startswith(f"{chosen}.")
        if inside and _weight(modules[name]) is _weight(modules[chosen]):
            chosen = name
    return chosen


def _encoder_decoder(model: nn.Module) -> Any:
    """The outermost module that holds an encoder and a decoder of its own, or None."""
    for module in named_modules(model).values():
        # An encoder inside has the same config, and names itself when asked for its decoder.
        if getattr(getattr(module, "config", None), "is_encoder_decoder", False) and hasattr(module, "get_decoder"):
            decoder = module.get_decoder()  # type: ignore[operator]
            if decoder is not module and decoder is not module.get_encoder():  # type: ignore[operator]
                return module
    return None


def _embeddings(module: nn.Module) -> nn.Module | None:
    try:
        found = module.get_input_embeddings()  # type: ignore[operator]
    except (NotImplementedError, AttributeError):  # how transformers says that there are none
        return None
    return found if isinstance(found, nn.Module) and hasattr(found, "embedding_dim") else None


def _weight(module: nn.Module) -> Any:
    return getattr(_embeddings(module), "weight", None)
