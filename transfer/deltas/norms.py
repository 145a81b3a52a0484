"""Which normalisation of a block belongs to its attention, which to its feed-forward part."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import nn

from transfer.deltas.attention import CROSS

BARE = ("LayerNorm", "layer_norm", "layernorm", "norm", "ln")  # what a sub-layer calls its own

# What a name says by itself. Llama's `post_attention_layernorm` stands before the feed-forward part, Gemma 2's behind
# the attention, so "attention" says nothing; places in order do.
_CUES = (
    ("crossattn", CROSS),
    ("ff", re.compile(r"mlp|ff|feed_?forward", re.IGNORECASE)),
    ("attn", re.compile(r"attn|^sa_", re.IGNORECASE)),
)


def is_norm(module: nn.Module) -> bool:
    """True for a layer norm, a root-mean-square norm and their like, whichever class a model has for it."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def norms_of_block(
    block: str, modules: Mapping[str, nn.Module], parts: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Sub-layer -> names of its norms, in model order; norms of unknown belonging are left out.

    Args:
        block: Name of the block.
        modules: What is inside the block, by full name.
        parts: `attn`, `crossattn`, `ff` -> names of the modules that are surely theirs, in the order they run.
    """
    found: dict[str, list[str]] = {}
    unclear = []
    for name, module in modules.items():
        if not is_norm(module):
            continue
        parent, _, own = name.rpartition(".")
        in_attention = parent in parts.get("attn", ()) or parent in parts.get("crossattn", ())
        if in_attention and own not in BARE:  # norms of queries and keys
            continue
        kind = _by_place(parent, block, parts) or next((kind for kind, cue in _CUES if cue.search(own)), None)
        if kind is None:
            unclear.append(name)
        else:
            found.setdefault(kind, []).append(name)
    lacking = [kind for kind in parts if kind not in found] or list(parts)
    if len(unclear) == 1:
        found.setdefault(lacking[0], []).extend(unclear)
    elif unclear and len(unclear) % len(lacking) == 0:
        each = len(unclear) // len(lacking)
        for position, kind in enumerate(lacking):
            found.setdefault(kind, []).extend(unclear[position * each : (position + 1) * each])
    order = list(modules)
    return {kind: sorted(names, key=order.index) for kind, names in found.items()}


def _by_place(parent: str, block: str, parts: Mapping[str, Sequence[str]]) -> str | None:
    """The sub-layer that alone has modules beside or below the norm; looked for from the norm up to the block."""
    while parent != block:
        held = [kind for kind, names in parts.items() if any(f"{name}.".startswith(f"{parent}.") for name in names)]
        if held:
            return held[0] if len(held) == 1 else None
        parent = parent.rpartition(".")[0]
    return None
