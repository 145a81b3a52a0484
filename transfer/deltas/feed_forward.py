"""Which layers of a block are its feed-forward part, and what each does in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from transfer.deltas.modules import features


def feed_forward(
    linear: Sequence[str], modules: Mapping[str, nn.Module], projection: str | None
) -> set[tuple[str, str]]:
    """(common name, place) of the layers up to the last that is as wide as the attention's output.

    Behind that one only gates of experts stand. In a gated part two layers of one size read the same: the first is
    `ff.w1`, whose output goes through the activation, the second `ff.w3`. One layer that is twice as wide as the last
    layer reads computes both, and has both names.

    Args:
        linear: Linear layers of the block outside of its attentions, in model order.
        modules: Every module of the model by name.
        projection: Output projection of the attention; None if it has none.
    """
    sizes = [features(modules[name]) or (0, 0) for name in linear]
    width = (features(modules[projection]) or (0, 0))[1] if projection else None
    last = max((i for i, (_, n_out) in enumerate(sizes) if n_out == width), default=len(linear) - 1)
    before = list(range(max(last, 0)))
    gated = len(before) == 2 and sizes[0] == sizes[1] and sizes[1][1] == sizes[last][0] and _beside(*linear[:2])
    found = {("ff.w3" if gated and i == 1 else "ff.w1", linear[i]) for i in before}
    if len(before) == 1 and sizes[0][1] == 2 * sizes[last][0]:
        found.add(("ff.w3", linear[0]))
    return found | {("ff.w2", name) for name in linear[last : last + 1]}


def _beside(one: str, other: str) -> bool:
    return one.rpartition(".")[0] == other.rpartition(".")[0]
