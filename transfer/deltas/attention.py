"""What an attention module is, by the names of its projections, and the sizes of its heads."""

from __future__ import annotations

import re

from torch import nn

from transfer.deltas.dotted import joined
from transfer.deltas.modules import features
from transfer.errors import DeltaError

QUERY = ("q", "query", "q_proj", "query_proj", "q_lin", "to_q", "wq", "q_attn")
KEY = ("k", "key", "k_proj", "key_proj", "k_lin", "to_k", "wk")
VALUE = ("v", "value", "v_proj", "value_proj", "v_lin", "to_v", "wv")
FUSED = ("c_attn", "query_key_value", "qkv", "qkv_proj", "Wqkv")
PROJECTION = ("o", "out_proj", "o_proj", "c_proj", "out_lin", "dense", "wo", "Wo", "to_out")
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
HEAD_WIDTH = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size", "dim_per_head", "d_kv")
CROSS = re.compile(r"cross|encdec|encoder_attn", re.IGNORECASE)  # in the name of what looks at an encoder
NEIGHBOUR_PROJECTION = "output.dense"  # BERT's family keeps the output projection beside `self`


def is_attention(module: nn.Module) -> bool:
    """True for a module with a query, a key and a value projection as children, or the three fused in one."""
    if _child(module, FUSED) or (_child(module, ("in_proj",)) and "Attention" in type(module).__name__):
        return True
    return all(_child(module, names) for names in (QUERY, KEY, VALUE))


def projections(name: str, modules: dict[str, nn.Module]) -> dict[str, str]:
    """q, k, v and proj of the attention called `name` -> full names of the layers; what is not found has no key.

    Where query, key and value are one fused layer, all three name that layer.
    """
    attention, parts = modules[name], {}
    fused = _child(attention, (*FUSED, "in_proj"))
    for part, names in (("q", QUERY), ("k", KEY), ("v", VALUE)):
        child = _child(attention, names) or fused
        if child:
            parts[part] = joined(name, child)
    own = _child(attention, PROJECTION)
    neighbour = joined(name.rpartition(".")[0], NEIGHBOUR_PROJECTION)
    if own:
        parts["proj"] = joined(name, own)
    elif neighbour in modules and features(modules[neighbour]) is not None:
        parts["proj"] = neighbour
    return parts


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


def _child(module: nn.Module, names: tuple[str, ...]) -> str | None:
    children = dict(module.named_children())
    return next((name for name in names if name in children and features(children[name]) is not None), None)


def _first(module: nn.Module, config: object, names: tuple[str, ...]) -> int | None:
    for holder in (module, config):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None
