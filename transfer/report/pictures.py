"""Pictures of a recipe, as SVG to stand in a page: bars, a heat map, curves; matplotlib is imported on first use."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRONG, WEAK, OTHER = "#0b6e99", "#b9cdd6", "#c4581e"  # told apart without colour vision, and in grey
WIDTH = 6.6  # inches
LONGEST = 48  # characters of a name beside a bar


def bars(names: Sequence[str], values: Sequence[float], label: str, strong: Sequence[bool] | None = None) -> str:
    """Horizontal bars, the first on top.

    Args:
        names: A bar's name each.
        values: Its length; may be below 0.
        label: Of the axis.
        strong: Which bars are drawn in full colour; None draws all so.
    """
    figure, axes = _figure(0.6 + 0.24 * max(len(names), 1))
    colours = [STRONG if strong is None or strong[i] else WEAK for i in range(len(names))]
    positions = np.arange(len(names))
    axes.barh(positions, list(values), color=colours, height=0.7)
    axes.set_yticks(positions, _shortened(names))
    axes.invert_yaxis()
    axes.axvline(0, color="#444", linewidth=0.8)
    axes.set_xlabel(label)
    return _svg(figure)


def heat_map(rows: Sequence[str], values: Sequence[Sequence[float]], label: str) -> str:
    """A square per row and block. Rows may have fewer blocks than others: what is not there stays empty.

    Args:
        rows: Names.
        values: For each row a number per block.
        label: Of the colours.
    """
    wide = max((len(row) for row in values), default=0)
    grid = np.full((len(rows), wide), np.nan)
    for number, row in enumerate(values):
        grid[number, : len(row)] = row
    figure, axes = _figure(0.9 + 0.24 * max(len(rows), 1))
    most = float(np.nanmax(np.abs(grid), initial=0.0))
    low, colours = (-most, "RdBu") if np.nanmin(grid, initial=0.0) < 0 else (0.0, "Blues")  # 0 is white in both
    image = axes.imshow(
        np.ma.masked_invalid(grid), aspect="auto", cmap=colours, vmin=low, vmax=most or 1.0, interpolation="nearest"
    )
    axes.set_yticks(np.arange(len(rows)), _shortened(rows))
    axes.set_xticks(np.arange(wide), [str(block) for block in range(wide)])
    axes.set_xlabel("block")
    figure.colorbar(image, ax=axes, label=label, fraction=0.04, pad=0.02)
    return _svg(figure)


def curves(lines: Mapping[str, Sequence[Mapping[str, float]]], label: str) -> str:
    """Calibrated dev loss by step, a line each, named at its end.

    Args:
        lines: Name -> rows with "step" and "calibrated".
        label: Of the vertical axis.
    """
    figure, axes = _figure(3.0)
    looks: list[dict[str, Any]] = [
        {"color": STRONG, "marker": "o"},
        {"color": OTHER, "marker": "s", "linestyle": "--"},
        {"color": "#555", "marker": "^", "linestyle": ":"},
    ]
    for number, (name, rows) in enumerate(lines.items()):
        steps, losses = [row["step"] for row in rows], [row["calibrated"] for row in rows]
        axes.plot(steps, losses, label=name, markersize=4, linewidth=1.6, **looks[number % len(looks)])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(frameon=False)
    return _svg(figure)


def _shortened(names: Sequence[str]) -> list[str]:
    """Long names would leave no room for what they name; the tables have them whole."""
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]


def _figure(height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The picture alone, without a date, so that equal recipes give equal pages."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "transfer", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
