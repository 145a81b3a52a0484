"""Making signatures: what lets a module be compared later, without its training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.blocks import block_indices
from transfer.deltas.method import DeltaMethod
from transfer.similarity.capture import tensor_gradients, weight_gradients
from transfer.similarity.factors import Factors, differences, in_weight_space, weight_factors
from transfer.similarity.sketch import SIZE, sketch_factors, sketch_outer, sketch_tensors
from zoo import Signature

if TYPE_CHECKING:
    from transfer.tasks import Task

MOST_INPUTS = 512  # training inputs embedded for centroid and variance
MOST_EXAMPLES = 64  # of them kept one by one
GRADIENT_EXAMPLES = 128  # labelled training examples behind the gradient sketch


def task_signature(backbone: Backbone, task: Task, seed: int = 0) -> Signature:
    """The part of a signature that a task's modules share: centroid, variance and example embeddings.

    Args:
        backbone: Runs bare.
        task: Its training inputs are embedded, at most 512 of them, drawn with the seed.
        seed: Of the draw.
    """
    chosen = drawn(len(task.train), MOST_INPUTS, seed)
    inputs = task.train["input"]
    embeddings = embed_bare(backbone, [inputs[int(index)] for index in chosen], task.fields)
    return Signature(
        centroid=embeddings.mean(axis=0),
        variance=embeddings.var(axis=0),
        examples=embeddings[:MOST_EXAMPLES].astype(np.float16),
    )


def module_signature(
    backbone: Backbone,
    encoded: Sequence[Encoded],
    method: DeltaMethod,
    tensors: Mapping[str, Tensor],
    start: Mapping[str, Tensor] | None,
    seed: int = 0,
) -> Signature:
    """The part of a signature that is a module's own: weight sketch, gradient sketch, norms per block.

    Args:
        backbone: Left as it was found.
        encoded: The source task's encoded training examples; the gradient is that of at most 128 of them.
        method: With the settings and places of the module.
        tensors: What the module holds.
        start: What it was trained from. A LoRA needs none, since its start acts as the bare backbone; without it
            other methods get nothing.
        seed: Of the draw of examples.
    """
    weight = norms = gradient = None
    if in_weight_space(method):
        factors = weight_factors(method, tensors)
        weight, norms = sketch_factors(factors).numpy(), _factor_norms(factors)
    elif start is not None:
        moved = differences(tensors, start)
        weight, norms = sketch_tensors(moved).numpy(), block_norms({n: float(t.norm()) for n, t in moved.items()})
    if encoded and (start is not None or in_weight_space(method)):
        rows = [encoded[int(index)] for index in drawn(len(encoded), GRADIENT_EXAMPLES, seed)]
        gradient = gradient_sketch(backbone, method, start, rows).numpy()
    return Signature(weight_sketch=weight, gradient_sketch=gradient, block_norms=norms)


def gradient_sketch(
    backbone: Backbone, method: DeltaMethod, start: Mapping[str, Tensor] | None, encoded: Sequence[Encoded]
) -> Tensor:
    """Sketch (1024,) of the mean loss's gradient at the start: by the weights for LoRA, else by the delta's tensors."""
    if not in_weight_space(method):
        assert start is not None, "only LoRA starts at the bare backbone"
        return sketch_tensors(tensor_gradients(backbone, method, start, encoded))
    total = torch.zeros(SIZE)

    def add(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for place in sorted(pairs):
            total.add_(sketch_outer(place, *pairs[place]))

    weight_gradients(backbone, method.places(backbone.model), encoded, add)
    return total


def embed_bare(backbone: Backbone, texts: Sequence[str], fields: Sequence[str] = ()) -> np.ndarray:
    """Embeddings of the bare backbone: (texts, width), fp32, unit length."""
    with backbone.bare():
        return backbone.embed(texts, fields).numpy()


def drawn(n: int, most: int, seed: int) -> np.ndarray:
    """At most `most` of n indices in a random order that only the seed decides; a file may be sorted by label."""
    return np.random.default_rng(seed).permutation(n)[:most]


def block_norms(norms: Mapping[str, float]) -> np.ndarray | None:
    """Norm of each block (blocks,) from the norms of its parts; None where no part lies in a block."""
    blocks = block_indices(norms)
    squares = np.zeros(max((b + 1 for b in blocks.values() if b is not None), default=0))
    for name, norm in norms.items():
        block = blocks[name]
        if block is not None:
            squares[block] += norm**2
    return np.sqrt(squares).astype(np.float32) if len(squares) else None


def _factor_norms(factors: Factors) -> np.ndarray | None:
    # |B A|^2 is the trace of (B^T B)(A A^T): two (rank, rank) matrices instead of one (out, in).
    return block_norms(
        {place: float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt()) for place, (a, b) in factors.items()}
    )
