"""Sketches: random projections that keep inner products, small enough to be stored with every module.

A matrix X (out, in) at a place becomes s_k = u_k^T X v_k for k = 1 .. 1024, where u_k and v_k hold random signs that
only the place's name decides. The expectation of the product s_k(X) s_k(Y) is the sum of all X_ij Y_ij, so the inner
product of two sketches estimates the inner product of what was sketched, and a low-rank X = B A (or a gradient, the
sum over tokens of g x^T) is sketched from its factors without ever being formed. Places are summed: their signs are
independent, so the estimate stays unbiased.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

SIZE = 1024  # values in a sketch; the cosine of two unrelated sketches is about 1 / sqrt(1024) = .03 off zero

Side = Literal["out", "in"]


def signs(name: str, side: Side, n: int) -> Tensor:
    """Random signs (SIZE, n), fp32, the same on every machine and for every version of torch and numpy.

    Args:
        name: Place or tensor name; seeds the draw together with `side`.
        side: "out" for u, "in" for v.
        n: Length of each sign vector.
    """
    digest = hashlib.sha256(f"{side}:{name}".encode()).digest()
    # PCG64's raw stream is covered by numpy's promise of stability, the distributions drawn from it are not.
    words = np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(-(-SIZE * n // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), count=SIZE * n, bitorder="little")
    return torch.from_numpy(bits.reshape(SIZE, n)).float().mul_(2).sub_(1)


def sketch_outer(place: str, left: Tensor, right: Tensor) -> Tensor:
    """Sketch of the sum over rows t of left_t right_t^T.

    Args:
        place: Name that seeds the signs.
        left: (rows, out): output gradients at the tokens, or the transpose of scale * B.
        right: (rows, in): inputs at the tokens, sparse for ids, or A.
    Returns:
        (SIZE,), fp32, on the CPU.
    """
    (rows, n_out), n_in = left.shape, right.shape[1]
    left, right = left.float(), right.float()
    if (rows + SIZE) * n_out * n_in < rows * SIZE * (n_out + n_in):
        # Many rows at a narrow place: their sum costs less than a projection of each.
        return sketch_tensor(place, (right.T @ left).T)  # a sparse factor has to stand in front
    u, v = signs(place, "out", n_out).to(left.device), signs(place, "in", n_in).to(right.device)
    return (((left @ u.T) * (right @ v.T)).sum(dim=0) / math.sqrt(SIZE)).cpu()


def sketch_tensor(name: str, tensor: Tensor) -> Tensor:
    """Sketch of one tensor, taken as a matrix (first dimension, the rest): (SIZE,), fp32."""
    matrix = tensor.float().reshape(tensor.shape[0] if tensor.dim() else 1, -1)
    u, v = signs(name, "out", matrix.shape[0]).to(matrix.device), signs(name, "in", matrix.shape[1]).to(matrix.device)
    return (((u @ matrix) * v).sum(dim=1) / math.sqrt(SIZE)).cpu()


def sketch_tensors(tensors: Mapping[str, Tensor]) -> Tensor:
    """Sum of the sketches of named tensors: (SIZE,), fp32; the order of the names does not matter."""
    return torch.stack([sketch_tensor(name, tensors[name]) for name in sorted(tensors)]).sum(dim=0)


def sketch_factors(factors: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Sum of the sketches of B A at every place.

    Args:
        factors: place -> (A (rank, in), B (out, rank)), the scale already in one of them.
    Returns:
        (SIZE,), fp32.
    """
    sketches = [sketch_outer(place, b.T, a) for place, (a, b) in sorted(factors.items())]
    return torch.stack(sketches).sum(dim=0)
