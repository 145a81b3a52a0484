"""What `structure(model)` gives: the common names as a dict, which prints as the tree of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transfer.deltas.tree import Node

if TYPE_CHECKING:
    from rich.text import Text

    from transfer.deltas.tree_text import Look


class Structure(dict[str, list[str]]):
    """Common name -> names of modules; `print` shows the tree, a notebook draws it.

    It is a picture of the moment it was taken in: what is attached later is not on it.

    Args:
        names: Common name -> names of modules, in model order.
        tree: The modules, with what is counted in them.
    """

    def __init__(self, names: Mapping[str, list[str]], tree: Node) -> None:
        super().__init__(names)
        self.tree = tree

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.tree)

    def text(self, look: Look | None = None) -> str:
        """The tree as plain text; by default 80 columns wide, with layers that are alike folded."""
        from transfer.deltas.tree_text import as_text

        return as_text(self.tree, look)

    def rich(self, look: Look | None = None) -> Text:
        """The tree in colour, for a `rich` console."""
        from rich.text import Text

        from transfer.deltas.tree_text import lines

        said = [Text.assemble(*line, no_wrap=True, overflow="ellipsis") for line in lines(self.tree, look)]
        return Text("\n", no_wrap=True, overflow="ellipsis").join(said)

    def __str__(self) -> str:
        return self.text()

    def __rich__(self) -> Text:
        return self.rich()

    def _repr_html_(self) -> str:
        from transfer.deltas.tree_html import as_html

        return as_html(self.tree)
