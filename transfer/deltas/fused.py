"""Fused layers: one linear layer that computes query, key and value, or both halves of a gated feed-forward part.

A common name means one of them, and the outputs of the layer that are its own. Where they lie is read off the kind of
module that cuts them apart, for the kinds in `fused.json`: `blocks`, one part behind the other; `heads`, the three
parts of a head side by side, head after head.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files

import torch
from torch import nn

from transfer.deltas.attention import head_sizes
from transfer.deltas.common_structure import common_names
from transfer.deltas.modules import features
from transfer.errors import DeltaError

FAMILIES = (("attn.q", "attn.k", "attn.v"), ("crossattn.q", "crossattn.k", "crossattn.v"), ("ff.w1", "ff.w3"))


def fused_layers(names: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Place -> the parts that its one layer computes, in their order; layers of one part are left out.

    Args:
        names: (common name of a part, place) of all there are.

    >>> fused_layers([("attn.q", "c_attn"), ("attn.k", "c_attn"), ("attn.v", "c_attn"), ("attn.proj", "c_proj")])
    {'c_attn': ('attn.q', 'attn.k', 'attn.v')}
    """
    found: dict[str, set[str]] = {}
    for part, place in names:
        found.setdefault(place, set()).add(part)
    return {
        place: tuple(part for part in family if part in parts)
        for place, parts in found.items()
        for family in FAMILIES
        if len(parts.intersection(family)) > 1
    }


def fused_at(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Fused layers of a model, as `fused_layers` gives them."""
    return fused_layers((common.part, common.place) for common in common_names(model))


def layout_of(modules: Mapping[str, nn.Module], place: str) -> str | None:
    """How the parts lie in the outputs of the layer at `place`: `blocks` or `heads`; None if that is not known."""
    kind = type(modules[place.rpartition(".")[0]])
    return _layouts().get(kind.__name__) if kind.__module__.startswith("transformers.") else None


def rows_of_parts(
    modules: Mapping[str, nn.Module], place: str, parts: Collection[str], together: tuple[str, ...]
) -> torch.Tensor:
    """Which outputs of a fused layer belong to these parts: boolean, (out,).

    Args:
        modules: Every module of the model by name.
        place: Name of the layer.
        parts: Some of `together`.
        together: All parts that the layer computes, in the order in which they lie.
    Raises:
        DeltaError: how they lie in it is not known.
    """
    owner = modules[place.rpartition(".")[0]]
    width = (features(modules[place]) or (0, 0))[1]
    layout = layout_of(modules, place)
    if layout is None:
        raise DeltaError(
            f"{_said(parts)} of {place!r} cannot be taken alone",
            found=f"one layer computes {_said(together)}, and how they lie in the outputs of a {type(owner).__name__} "
            "is not known",
            hint=f"where=({place.rpartition('.')[2]!r},) takes the whole layer",
        )
    sizes, repeats = _sizes(owner, width, together), 1
    if layout == "heads":
        repeats = sizes[0] // head_sizes(owner)[1]
        sizes = [size // repeats for size in sizes]
    chosen = torch.tensor([part in parts for part in together])
    return chosen.repeat_interleave(torch.tensor(sizes)).repeat(repeats)


def _sizes(owner: nn.Module, width: int, together: tuple[str, ...]) -> list[int]:
    """Outputs of each part; with fewer heads for keys and values than for queries they differ."""
    if len(together) == 3 and (width % 3 != 0 or getattr(owner, "num_key_value_groups", 1) != 1):
        heads, head_width = head_sizes(owner)
        return [width - 2 * heads * head_width, *[heads * head_width] * 2]
    return [width // len(together)] * len(together)


@functools.cache
def _layouts() -> dict[str, str]:
    """Name of a class of transformers -> `blocks` or `heads`."""
    text = files("transfer.deltas").joinpath("fused.json").read_text(encoding="utf-8")
    known: dict[str, str] = json.loads(text)
    return known


def _said(parts: Iterable[str]) -> str:
    return ", ".join(parts)
