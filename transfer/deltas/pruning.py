"""Pruning: a SoRA without the ranks whose gates are zero, which is a plain LoRA of its own rank at each place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from transfer.deltas.attached import Attached
from transfer.deltas.delta import Delta
from transfer.deltas.lora import LoRA
from transfer.deltas.sora import GATE, SoRA
from transfer.errors import DeltaError

if TYPE_CHECKING:
    from zoo import Module


@torch.no_grad()
def prune(thing: Any) -> Delta:
    """The plain LoRA that computes the same: gates folded into B, ranks of zero gates and places without ranks gone.

    The scale stays alpha / rank of the start, so a place of r' ranks has the alpha `alpha * r' / rank`. PEFT calls the
    ranks and alphas by place rank_pattern and alpha_pattern.

    Args:
        thing: A SoRA: a `Delta`, what is attached, a stored module, or what holds a delta. Left as it is.
    Returns:
        A `Delta` of `LoRA`, with the tensors in the dtype they had.
    Raises:
        DeltaError: it is no SoRA, no gate is left, or ranks or alphas are by names that are no places.
    """
    delta = Delta.from_attached(thing) if isinstance(thing, Attached) else Delta.of(thing)
    sora = delta.method
    if not isinstance(sora, SoRA):
        raise DeltaError(
            f"method {sora.method!r} has no gates, so there is nothing to prune",
            hint="leave the pruning out; or train a module with --method sora",
        )
    gated = {name.removesuffix(f".{GATE}") for name in delta.tensors if name.endswith(GATE)}
    if named := sorted({*sora.ranks, *sora.alphas} - gated):
        raise DeltaError(
            f"ranks or alphas of this delta are by a name, {named[0]!r}, and which places that means a model says",
            hint="prune what is attached; or Delta(method.on(model), tensors)",
        )
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, gate in delta.tensors.items():
        place = name.removesuffix(f".{GATE}")
        kept = gate.nonzero().flatten()
        if place == name or not len(kept):
            continue
        tensors[f"{place}.lora_A"] = delta.tensors[f"{place}.lora_A"][kept].contiguous()
        tensors[f"{place}.lora_B"] = (delta.tensors[f"{place}.lora_B"] * gate)[:, kept].contiguous()
        if len(kept) != sora.rank:
            ranks[place] = len(kept)
        alpha = sora.scale(place) * len(kept)
        if alpha != sora.alpha:
            alphas[place] = alpha
    if not tensors:
        raise DeltaError(
            "every gate is zero, so the pruned delta would be empty",
            found=f"{sum(name.endswith(GATE) for name in delta.tensors)} places without a rank",
            hint="a smaller xi, or fewer steps at it",
        )
    places = tuple(name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A"))
    lora = LoRA(
        rank=sora.rank,
        alpha=sora.alpha,
        dropout=sora.dropout,
        where=sora.where,
        exclude=sora.exclude,
        ranks=ranks,
        alphas=alphas,
        at=places,
        parts={place: names for place, names in delta.settings.get("parts", {}).items() if place in places},
    )
    embeddings = [place for place in delta.settings.get("embeddings", ()) if place in places]
    return Delta(lora, tensors, {**lora.settings(), **({"embeddings": embeddings} if embeddings else {})})


def prune_module(module: Module) -> Module:
    """A stored SoRA as a module of a plain LoRA, which PEFT loads. What its card says it measured holds on.

    Its start is not known any more. Of the signature stays what describes the task and the change of the weights.

    Raises:
        DeltaError: as `prune`.
    """
    from zoo import Module

    delta = prune(module)
    card = replace(
        module.card,
        method=delta.method.method,
        settings=delta.settings,
        start=None,
        provenance={**module.card.provenance, "pruned_from": module.id},
    )
    signature = replace(module.signature, gradient_sketch=None, block_norms=None)
    return Module.new(card, delta.tensors, signature)
