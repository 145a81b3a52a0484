"""A tree as lines of text: on a terminal in colour, elsewhere with signs that say the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from transfer.deltas.tree import Counts, Laid, Node
from transfer.deltas.tree_rows import Row, rows_of

FROZEN, QUIET, TRAINABLE, DELTA, NAME, COMMON = "dim", "dim", "bold blue", "magenta", "bold", "cyan"
HEADS = ("params", "share", "trained")
WIDEST_COMMON, NARROWEST_NAME = 20, 24
TIMES = "\u00d7"
_ASCII = str.maketrans({"│": "|", "├": "|", "└": "`", "●": "*", "◐": "~", "→": ">", TIMES: "x", "…": "~"})


@dataclass(frozen=True)
class Look:
    """How much is shown.

    Args:
        width: Columns of a line.
        depth: Levels below the model; None shows them all.
        everything: No folding, and modules without parameters too.
        plain: Letters that every terminal has.
    """

    width: int = 80
    depth: int | None = None
    everything: bool = False
    plain: bool = False


class Piece(NamedTuple):
    """Part of a line, and its style in the words of `rich`."""

    text: str
    style: str = ""


class _Line(NamedTuple):
    """One line before it is set: its sign, guides, name, what may be said of it (the longest first), its numbers."""

    mark: str
    front: str
    label: str
    about: tuple[str, ...]
    common: str
    numbers: tuple[str, ...]
    style: str


def lines(root: Node, look: Look | None = None) -> list[list[Piece]]:
    """The tree, and under it a line for each kind of parameter with what its sign means."""
    look = look or Look()
    row = rows_of(root, look.everything, fold=not look.everything)
    body = list(_lines(row, root.counts.backbone, look.depth))
    # Where all is trained or nothing is, the column would say nothing new.
    columns = 3 if state(root.counts) == "partly" else 2
    body = [line._replace(numbers=line.numbers[:columns]) for line in body]
    if columns == 2:  # and there is nothing that frozen parts would stand back behind
        body = [line._replace(style=NAME if line is body[0] else "") for line in body]
    heads = HEADS[:columns]
    numbers = [max(map(len, column)) for column in zip(heads, *(line.numbers for line in body), strict=True)]
    common = min(max(len(line.common) for line in body), WIDEST_COMMON)
    name = look.width - sum(numbers) - 2 * len(numbers)
    if name - common < NARROWEST_NAME:  # on a narrow terminal the names of the model go before
        common = 0
    name -= common + 2 if common else 0
    head = _Line("", "", "", (), "", heads, QUIET)
    said = [*(_set(line, name, common, numbers) for line in (head, *body)), [], *_summary(root, look.width)]
    if not look.plain:
        return said
    plain = [[(p.text.translate(_ASCII).encode("ascii", "replace").decode(), p.style) for p in line] for line in said]
    return [[Piece(text, style) for text, style in line] for line in plain]


def as_text(root: Node, look: Look | None = None) -> str:
    """The lines without colour."""
    return "\n".join("".join(piece.text for piece in line).rstrip() for line in lines(root, look))


def short(number: int) -> str:
    """A number in at most seven letters.

    >>> short(147840), short(22713216), short(70553706496)
    ('147,840', '22.71 M', '70.55 B')
    """
    if number < 1_000_000:
        return f"{number:,}"
    for unit, size in (("M", 1e6), ("B", 1e9), ("T", 1e12)):
        text = f"{number / size:.4g}"
        if float(text) < 1000:
            return f"{float(text):.{max(0, 4 - len(text.partition('.')[0]))}f}"[:5].rstrip(".") + f" {unit}"
    return f"{number:.2e}"


def share(part: int, whole: int, decimals: int = 2) -> str:
    """A share in percent; what would be rounded to nothing says so.

    >>> share(1, 8), share(1, 10**6), share(0, 5), share(0, 0), share(1, 8, 1)
    ('12.50%', '<0.01%', '0.00%', '0.00%', '12.5%')
    """
    percent = 100 * part / whole if whole else 0.0
    text = f"{percent:.{decimals}f}%"
    return f"<{10**-decimals}%" if percent and not float(text[:-1]) else text


def sizes(node: Node) -> str:
    """`384→1536` of a linear layer, `30522×384` of another weight."""
    if not node.sizes:
        return ""
    linear = "Linear" in node.kind or "Conv1D" in node.kind
    return ("→" if linear and len(node.sizes) == 2 else TIMES).join(map(str, node.sizes))


def tensors(laid: Laid) -> str:
    """`lora_A 8×384, lora_B 384×8`."""
    return ", ".join(f"{name} {TIMES.join(map(str, shape))}" for name, shape in laid.tensors)


def tied(node: Node) -> str:
    """What the parameters of a module are counted under, where that is another name."""
    return ", ".join(dict.fromkeys(p.tied.rpartition(".")[0] or p.tied for p in node.parameters if p.tied))


def state(counts: Counts) -> str:
    """`frozen`, `trainable` (all of it), `partly` or `empty`."""
    if not counts.everything:
        return "empty"
    if not counts.trained:
        return "frozen"
    return "trainable" if counts.trained == counts.everything else "partly"


def _lines(
    row: Row, whole: int, depth: int | None, front: str = "", below: str = "", times: int = 1
) -> Iterator[_Line]:
    node, counts, how = row.first, row.counts, state(row.counts)
    alike = f"{TIMES}{len(row.nodes)}" if len(row.nodes) != times else ""
    same = f"= {tied(node)}" if tied(node) else ""
    kind = node.kind if row.label else ""
    about = [(alike, same, kind, sizes(node)), (alike, same, sizes(node)), (alike, same), (alike, same and "tied")]
    yield _Line(
        {"trainable": "● ", "partly": "◐ "}.get(how, "  "),
        front,
        row.label or node.kind,
        tuple(dict.fromkeys(" ".join(filter(None, parts)) for parts in about)),
        row.common,
        (
            short(counts.backbone),
            share(counts.backbone, whole, 1),
            short(counts.trained) if counts.trained else "",
        ),
        {"trainable": TRAINABLE, "partly": NAME}.get(how, FROZEN),
    )
    guide = below + ("│ " if row.children and depth != 0 else "  ")
    for index, laid in enumerate(node.deltas):
        n = sum(other.deltas[index].trained for other in row.nodes)
        numbers = ("", "", short(n) if n else "")
        yield _Line("+ ", guide, laid.method, (tensors(laid), ""), "", numbers, DELTA)
    if depth == 0:
        return
    deeper = None if depth is None else depth - 1
    for child in row.children:
        last = child is row.children[-1]
        signs = (below + ("└ " if last else "├ "), below + ("  " if last else "│ "))
        yield from _lines(child, whole, deeper, *signs, len(row.nodes))


def _set(line: _Line, name: int, common: int, numbers: list[int]) -> list[Piece]:
    """A line in its columns: of what may be said the longest that fits, and a name that is too long is cut."""
    if line.style == DELTA:  # it has no common name and no parameters of the backbone: room for its tensors
        name += (common + 2 if common else 0) + sum(numbers[:2]) + 4
        common, numbers = 0, numbers[2:]
        line = line._replace(numbers=line.numbers[2:])
    room = max(name - len(line.mark) - len(line.front), 1)
    label = fit(line.label, room)
    left = room - cell_len(label) - 2
    about = next((text for text in line.about if cell_len(text) <= left), "")
    said = f"  {about}" if about else ""
    pieces = [
        Piece(line.mark, line.style),
        Piece(line.front, QUIET),
        Piece(label, line.style),
        Piece(said + " " * (room - cell_len(label) - cell_len(said)), QUIET),
    ]
    if common:
        pieces.append(Piece("  " + fit(line.common, common).ljust(common), QUIET if line.style == FROZEN else COMMON))
    styles = (line.style, QUIET, DELTA if line.style == DELTA else line.style)[-len(numbers) :]
    for text, wide, style in zip(line.numbers, numbers, styles, strict=True):
        pieces.append(Piece("  " + text.rjust(wide), style))
    return [*pieces[:-1], Piece(pieces[-1].text.rstrip(), pieces[-1].style)]


def fit(text: str, width: int) -> str:
    """The text, cut at its end to fit `width` columns of a terminal.

    >>> fit("relative_attention_bias", 12), fit("query", 12)
    ('relative_at…', 'query')
    """
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _summary(root: Node, width: int) -> Iterator[list[Piece]]:
    counts = root.counts
    everything = counts.everything
    placed: dict[str, int] = {}
    for node in root.walk():
        for laid in node.deltas:
            placed[laid.method] = placed.get(laid.method, 0) + 1
    where = ", ".join(f"{method} at {n} place{'s' if n > 1 else ''}" for method, n in placed.items())
    wide = len(f"{everything:,}")
    rows = [("  frozen", counts.frozen, FROZEN, ""), ("● trainable", counts.trainable, TRAINABLE, "")]
    if placed:
        rows.append(("+ delta", counts.delta, DELTA, where))
    for head, number, style, note in rows:
        text = f"{head:<12}{number:>{wide},}  {share(number, everything):>7}"
        yield [Piece(fit(text, width), style), Piece(f"  {note}"[: max(width - len(text), 0)] if note else "", style)]
    said = f"{counts.trained:,} of {everything:,} ({share(counts.trained, everything)})"
    yield [Piece(fit(f"  {'trained':<10}{said}", width))]
