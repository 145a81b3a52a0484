"""A tree for notebooks: HTML that opens and closes without a script, in light and dark."""

from __future__ import annotations

from html import escape

from transfer.deltas.tree import Node
from transfer.deltas.tree_rows import Row, rows_of
from transfer.deltas.tree_text import TIMES, share, short, sizes, state, tensors, tied

OPEN_LEVELS = 2  # below the model; what holds a delta is open at any level

# A notebook's theme is not the system's: greys are made of the text's own colour, the others are legible on both.
STYLE = """
.transfer-structure { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-x: auto; max-width: 62rem; }
.transfer-structure details { margin: 0; }
.transfer-structure details > :not(summary) { margin-left: 1.1em; }
.transfer-structure summary { cursor: pointer; }
.transfer-structure summary, .transfer-structure .leaf { display: flex; gap: 1em; white-space: nowrap; }
.transfer-structure .leaf { padding-left: 0; }
.transfer-structure .name::before { display: inline-block; width: 1.1em; content: ""; }
.transfer-structure summary .name::before { content: "▸"; opacity: .6; }
.transfer-structure details[open] > summary .name::before { content: "▾"; }
.transfer-structure .name { flex: 1; min-width: 16em; overflow: hidden; text-overflow: ellipsis; }
.transfer-structure .about { opacity: .65; }
.transfer-structure .common { width: 11em; color: #0e8a8a; }
.transfer-structure .heads { opacity: .65; }
.transfer-structure .heads .common { color: inherit; }
.transfer-structure .number { width: 5.5em; text-align: right; font-variant-numeric: tabular-nums; }
.transfer-structure .frozen { opacity: .7; }
.transfer-structure .trainable { color: #2f7de1; font-weight: 600; }
.transfer-structure .delta { color: #c04bc0; }
.transfer-structure table { margin: .6em 0 0; border-collapse: collapse; font: inherit; color: inherit; }
.transfer-structure th, .transfer-structure td { padding: 0 1em 0 0; text-align: right; border: 0; }
.transfer-structure th { text-align: left; font-weight: normal; }
"""


def as_html(root: Node) -> str:
    """One element with its style; all names are escaped."""
    head = _line("", "", "", "common name", "params", "share", "trained", "")
    body = _row(rows_of(root), root.counts.backbone)
    return (
        f'<div class="transfer-structure"><style>{STYLE}</style>'
        f'<div class="leaf heads">{head}</div>{body}{_totals(root)}</div>'
    )


def _row(row: Row, whole: int, level: int = 0, alike: int = 1) -> str:
    node, counts = row.first, row.counts
    times = f"{TIMES}{len(row.nodes)}" if len(row.nodes) != alike else ""
    same = f"= {tied(node)}" if tied(node) else ""
    how = state(counts)
    line = _line(
        row.label or node.kind,
        " ".join(filter(None, (times, same, node.kind if row.label else "", sizes(node)))),
        {"trainable": "●", "partly": "◐"}.get(how, ""),
        row.common,
        short(counts.backbone),
        share(counts.backbone, whole),
        short(counts.trained) if counts.trained else "",
        how,
    )
    deltas = [
        f'<div class="leaf">{_line(laid.method, tensors(laid), "+", "", "", "", short(n), "delta")}</div>'
        for laid, n in ((laid, sum(n.deltas[i].trained for n in row.nodes)) for i, laid in enumerate(node.deltas))
    ]
    inside = "".join([*deltas, *(_row(child, whole, level + 1, len(row.nodes)) for child in row.children)])
    if not inside:
        return f'<div class="leaf">{line}</div>'
    is_open = " open" if level < OPEN_LEVELS or counts.delta else ""
    return f"<details{is_open}><summary>{line}</summary>{inside}</details>"


def _line(label: str, about: str, sign: str, common: str, params: str, part: str, trained: str, how: str) -> str:
    shown = f"{sign} {label}" if sign else label
    return (
        f'<span class="name"><span class="{how}">{escape(shown)}</span> '
        f'<span class="about">{escape(about)}</span></span>'
        f'<span class="common">{escape(common)}</span>'
        + "".join(f'<span class="number">{escape(text)}</span>' for text in (params, part))
        + f'<span class="number {how}">{escape(trained)}</span>'
    )


def _totals(root: Node) -> str:
    counts = root.counts
    rows = [("frozen", counts.frozen), ("trainable", counts.trainable), ("delta", counts.delta)]
    cells = "".join(
        f'<tr class="{name}"><th>{name}</th><td>{n:,}</td><td>{share(n, counts.everything)}</td></tr>'
        for name, n in rows
        if n or name != "delta"
    )
    trained = f"<tr><th>trained</th><td>{counts.trained:,}</td><td>{share(counts.trained, counts.everything)}</td></tr>"
    return f"<table>{cells}{trained}</table>"
