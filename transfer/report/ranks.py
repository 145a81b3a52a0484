"""A picture of the ranks of a delta by layer and place; matplotlib is imported on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import PathError

if TYPE_CHECKING:
    from transfer.deltas.ranks import Ranks

FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> Path:
    """The path, once it is sure that a picture can be written there: asked before the work, not after it.

    Raises:
        PathError: no such folder, or no ending of a picture.
    """
    if path.suffix.lower() not in FORMATS:
        raise PathError(f"{path} does not end as a picture does", found=path.suffix, hint=", ".join(FORMATS))
    if not path.parent.is_dir():
        raise PathError(f"there is no folder {path.parent} for the picture {path.name}")
    return path


def draw_ranks(ranks: Ranks, path: Path | str, title: str | None = None) -> Path:
    """Write a heat map: a row per part of a layer, a column per layer, the rank in each cell, totals at the edges.

    Args:
        ranks: What `ranks_of` counted.
        path: Ends in .png, .svg or .pdf.
        title: Above it; None says how many parameters are kept.
    Returns:
        The path.
    Raises:
        PathError: as `check_picture`.
    """
    from matplotlib.figure import Figure

    path = check_picture(Path(path))
    parts, blocks, grid = ranks.grid()
    figure = Figure(figsize=(2.6 + 0.42 * max(len(blocks), 6), 1.4 + 0.36 * len(parts)), layout="constrained")
    axes = figure.subplots()
    most = max(place.start for place in ranks.places)
    image = axes.imshow(np.ma.masked_invalid(grid), cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(grid)), strict=True):
        value = grid[row, column]
        colour = "white" if value > 0.6 * most else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    by_part, by_block = np.nansum(grid, axis=1), np.nansum(grid, axis=0)
    names = [f"{part}  (sum {n:.0f})" for part, n in zip(parts, by_part, strict=True)]
    axes.set_yticks(np.arange(len(parts)), names, fontsize=8)
    labels = [f"{block}\n({n:.0f})" for block, n in zip(blocks, by_block, strict=True)]
    axes.set_xticks(np.arange(len(blocks)), labels, fontsize=8)
    axes.set_xlabel("layer (sum of its ranks)", fontsize=9)
    figure.colorbar(image, ax=axes, label=f"rank, at most {most}", fraction=0.05, pad=0.02)
    said = f"{ranks.parameters:,} of {ranks.start_parameters:,} parameters kept ({100 * ranks.share:.0f}%)"
    axes.set_title(said if title is None else f"{title}\n{said}", fontsize=9)
    figure.savefig(path, dpi=150)
    return path
