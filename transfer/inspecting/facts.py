"""What is known of a model, as one JSON document for scripts."""

from __future__ import annotations

from typing import Any

from transfer.deltas.method import DeltaMethod
from transfer.deltas.structured import Structure
from transfer.deltas.tree import Counts, Node


def document(seen: Structure, name: str, method: DeltaMethod | None = None, depth: int | None = None) -> dict[str, Any]:
    """Everything that the tree shows, unfolded.

    Args:
        seen: The structure, with a planned delta on it if there is one.
        name: What the user calls the model.
        method: The planned delta.
        depth: Parts of a module's name at most; deeper modules are left out and counted in those that hold them.
    """
    root = seen.tree
    nodes = [node for node in root.walk() if depth is None or _level(node) <= depth]
    placed = [node.name for node in root.walk() if node.deltas]
    delta = None
    if method is not None:
        settings = {key: value for key, value in method.settings().items() if key != "places"}
        delta = {"method": method.method, "settings": settings, "places": placed, "parameters": root.counts.delta}
    return {
        "model": name,
        "class": root.kind,
        "parameters": _counts(root.counts),
        "share_trained": root.counts.trained / root.counts.everything if root.counts.everything else 0.0,
        "delta": delta,
        "common": dict(seen),
        "modules": [_module(node) for node in nodes],
    }


def _level(node: Node) -> int:
    return node.name.count(".") + 1 if node.name else 0


def _counts(counts: Counts) -> dict[str, int]:
    return {**counts._asdict(), "backbone": counts.backbone, "all": counts.everything}


def _module(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "class": node.kind,
        "common": [common.full for common in node.common],
        "parameters": _counts(node.counts),
        "own": [
            {"name": p.name, "shape": list(p.shape), "trainable": p.trainable, "tied": p.tied or None}
            for p in node.parameters
        ],
        "deltas": [
            {"method": laid.method, "tensors": {name: list(shape) for name, shape in laid.tensors}, "size": laid.size}
            for laid in node.deltas
        ],
    }
