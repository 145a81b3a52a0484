"""A matrix as a product of two narrow ones: exact, or its best approximation of a rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg  # type: ignore[import-untyped]
import torch
from torch import Tensor

from transfer.errors import ConfigError

Factors = tuple[Tensor, Tensor]  # A (rank, in), B (out, rank)

NOTHING = 1e-7  # singular values below this share of the largest are rounding


@dataclass(frozen=True)
class Cut:
    """How much of a matrix is kept: at most `rank` directions, and no more than `energy` asks for.

    Args:
        rank: None keeps all.
        energy: Share of the sum of squared singular values, in (0, 1]; None looks at the rank alone.
    Raises:
        ConfigError: one of them is outside its range.
    """

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank must be at least 1, got {self.rank}", hint="leave it out for the modules' largest")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ConfigError(
                f"energy must be above 0 and at most 1, got {self.energy}",
                hint="the share of the squared singular values that is kept: 0.95",
            )

    def of(self, squares: np.ndarray) -> int:
        """How many directions are kept of squared singular values, largest first; at least 1."""
        squares = np.maximum(squares, 0)
        most = len(squares) if self.rank is None else min(self.rank, len(squares))
        if self.energy is not None and len(squares) and squares.sum() > 0:
            kept = np.cumsum(squares) / squares.sum()
            most = min(most, int(np.searchsorted(kept, self.energy * (1 - 1e-12))) + 1)
        return max(1, most)


def from_factors(a: Tensor, b: Tensor, cut: Cut) -> Factors:
    """The product b a in as few directions as `cut` keeps, the singular values shared between both sides.

    Through QR of both factors and the SVD of a small core: the product is never formed.

    Args:
        a: (ranks, in), fp32; `ranks` below both sides of the product.
        b: (out, ranks).
    Returns:
        A (rank, in) and B (out, rank), fp32. A direction that carries nothing has B at 0 and A not, as a new LoRA has.
    """
    q_out, r_out = torch.linalg.qr(b.double())
    q_in, r_in = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    rank = cut.of((s**2).numpy())
    s = torch.where(s > NOTHING * s.max(), s, 0.0)[:rank]
    root = s.sqrt()
    near = torch.where(s > 0, root, 1.0)[:, None] * (vh[:rank] @ q_in.T)
    return near.float(), ((q_out @ u[:, :rank]) * root).float()


def from_matrix(matrix: Tensor, cut: Cut) -> Factors:
    """The same for a matrix (out, in), from the eigenvectors of its smaller Gram matrix in fp64.

    Only as many eigenvectors are computed as are kept, which is what makes it fast. Directions below 1e-7 of the
    largest singular value are lost: fp32 could not hold them beside it.
    """
    m = matrix.double()
    wide = m.shape[0] <= m.shape[1]
    gram = (m @ m.T if wide else m.T @ m).numpy()
    n = len(gram)
    if cut.energy is not None:
        values = scipy.linalg.eigh(gram, eigvals_only=True, check_finite=False)
        rank = cut.of(values[::-1])
    else:
        rank = n if cut.rank is None else min(cut.rank, n)
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=(n - rank, n - 1), check_finite=False)
    side = torch.from_numpy(vectors[:, ::-1].copy())  # (n, rank), largest first
    other = m.T @ side if wide else m @ side  # columns of length s: singular vectors times their values
    s = other.norm(dim=0)
    s = torch.where(s > NOTHING * s.max(), s, 0.0)
    root = s.sqrt()
    split = torch.where(s > 0, 1 / root.clamp_min(1e-300), 0.0)
    near, far = side * root, other * split
    a, b = (far.T, near) if wide else (near.T, far)
    return _able_to_learn(a.float(), s).contiguous(), b.float().contiguous()


def _able_to_learn(a: Tensor, s: Tensor) -> Tensor:
    """A (rank, in) with directions in the place of those that carry nothing: with A and B both at 0 none could grow."""
    empty = s == 0
    if not bool(empty.any()):
        return a
    drawn = torch.randn(int(empty.sum()), a.shape[1], generator=torch.Generator().manual_seed(0))
    return a.index_put((empty,), torch.nn.functional.normalize(drawn, dim=1))
