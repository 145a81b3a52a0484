"""Common structure: one set of names for the parts that models of many architectures share.

Found by rules over the modules, not by a tree written for each model: an attention module is one that has a
query, a key and a value projection (or the three fused in one) as children; its output projection is a child of
its own or sits in the neighbouring `output`; what is linear in the same block and outside any attention is the
feed-forward part, whose last layer is `ff.w2`.
"""

from __future__ import annotations

import re

from torch import nn

from transfer.deltas.modules import features, named_modules
from transfer.errors import DeltaError

QUERY = ("q", "query", "q_proj", "query_proj", "q_lin", "to_q", "wq", "q_attn")
KEY = ("k", "key", "k_proj", "key_proj", "k_lin", "to_k", "wk")
VALUE = ("v", "value", "v_proj", "value_proj", "v_lin", "to_v", "wv")
FUSED = ("c_attn", "query_key_value", "qkv", "qkv_proj", "Wqkv")
PROJECTION = ("o", "out_proj", "o_proj", "c_proj", "out_lin", "dense", "wo", "Wo", "to_out")
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
HEAD_WIDTH = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size", "dim_per_head", "d_kv")
NEIGHBOUR_PROJECTION = "output.dense"  # BERT's family keeps the output projection beside `self`

_CROSS = re.compile(r"cross|encdec|encoder_attn", re.IGNORECASE)


def structure(model: nn.Module) -> dict[str, list[str]]:
    """Find the places that models have in common.

    Args:
        model: Any model, or a `Backbone` (then its inner model); names are relative to it.
    Returns:
        Common name -> names of modules, in model order. Keys that may be there: `attn` (the self-attention
        module, holding query, key and value), `attn.q`, `attn.k`, `attn.v`, `attn.proj` (output projection),
        the same five under `crossattn`, `ff.w1` (all but the last layer of the feed-forward part) and `ff.w2`
        (its last). Where query, key and value are one fused layer, all three name that layer. A part that is not
        found has no key.
    """
    modules = named_modules(model)
    found: dict[str, list[str]] = {}
    inside: set[str] = set()  # modules that belong to an attention
    attentions = [name for name, module in modules.items() if is_attention(module)]
    for name in attentions:
        kind = "crossattn" if _CROSS.search(name) else "attn"
        found.setdefault(kind, []).append(name)
        for part, place in _parts(name, modules).items():
            found.setdefault(f"{kind}.{part}", []).append(place)
            inside.add(place)
        inside.update(other for other in modules if other.startswith(f"{name}."))
    # Blocks in the order of their attentions; a block may hold two (self and cross) but one feed-forward part.
    for block in dict.fromkeys(_block(name) for name in attentions):
        if block is None:
            continue
        linear = [
            name
            for name, module in modules.items()
            if name.startswith(f"{block}.") and name not in inside and features(module) is not None
        ]
        if linear:
            found.setdefault("ff.w1", []).extend(linear[:-1])
            found.setdefault("ff.w2", []).append(linear[-1])
    order = {name: position for position, name in enumerate(modules)}
    return {common: sorted(names, key=order.__getitem__) for common, names in sorted(found.items()) if names}


def _child(module: nn.Module, names: tuple[str, ...]) -> str | None:
    children = dict(module.named_children())
    return next((name for name in names if name in children and features(children[name]) is not None), None)


def is_attention(module: nn.Module) -> bool:
    """True for a module with a query, a key and a value projection as children, or the three fused in one."""
    if _child(module, FUSED) or (_child(module, ("in_proj",)) and "Attention" in type(module).__name__):
        return True
    return all(_child(module, names) for names in (QUERY, KEY, VALUE))


def head_sizes(attention: nn.Module) -> tuple[int, int]:
    """(key-value heads, width of a head) of an attention module, read from its layers and its config.

    Raises:
        DeltaError: the width of a head is to be found nowhere.
    """
    config = getattr(attention, "config", None)
    heads = _first(attention, config, HEADS)
    head_width = _first(attention, None, HEAD_WIDTH)
    key = _child(attention, KEY)
    key_width = (features(attention.get_submodule(key)) or (0, 0))[1] if key else None
    if head_width is None and key_width is not None and heads:
        head_width = key_width // heads
    if head_width is None:
        raise DeltaError(
            f"the width of a head of {type(attention).__name__} is unknown", found=f"none of {', '.join(HEAD_WIDTH)}"
        )
    if key_width is not None:
        return key_width // head_width, head_width
    # Query, key and value fused: their sizes can't be told apart by shape, so the numbers of heads must be known.
    kv_heads = _first(attention, config, ("num_key_value_heads",)) or heads
    if not kv_heads:
        raise DeltaError(
            f"the number of heads of {type(attention).__name__} is unknown", found=f"none of {', '.join(HEADS)}"
        )
    return kv_heads, head_width


def _first(module: nn.Module, config: object, names: tuple[str, ...]) -> int | None:
    for holder in (module, config):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def _parts(name: str, modules: dict[str, nn.Module]) -> dict[str, str]:
    """q, k, v and proj of the attention called `name` -> full names of the layers."""
    attention, parts = modules[name], {}
    fused = _child(attention, (*FUSED, "in_proj"))
    for part, names in (("q", QUERY), ("k", KEY), ("v", VALUE)):
        child = _child(attention, names) or fused
        if child:
            parts[part] = f"{name}.{child}" if name else child
    own = _child(attention, PROJECTION)
    parent = name.rpartition(".")[0]
    neighbour = f"{parent}.{NEIGHBOUR_PROJECTION}" if parent else NEIGHBOUR_PROJECTION
    if own:
        parts["proj"] = f"{name}.{own}" if name else own
    elif neighbour in modules and features(modules[neighbour]) is not None:
        parts["proj"] = neighbour
    return parts


def _block(name: str) -> str | None:
    """The block a module stands in: its name up to the first number."""
    match = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", name)
    return match.group(0) if match else None
