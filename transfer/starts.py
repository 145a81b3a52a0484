"""Where a fine-tuning starts: the start that all modules of a method share, which is scratch, or a given one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.keeping.starts import Point
from zoo import Module, Zoo, ZooView
from zoo.tensors import digest


def shared_start(backbone: Backbone, method: DeltaMethod, zoo: Any = None) -> tuple[dict[str, Tensor], str | None]:
    """The stored start for these shapes and this backbone, else a fresh draw.

    Args:
        backbone: Its fingerprint decides.
        method: With settings.
        zoo: Searched for the start; None is the starter zoo.
    Returns:
        Canonical name -> fp32 tensor, and the name of the start in the zoo, or None when it was drawn.
    """
    zoo = Zoo.starter() if zoo is None else zoo
    name = zoo.find_start(method.method, method.start_settings(backbone.model), backbone.fingerprint)
    if name is None:
        return method.draw(backbone.model), None
    return dict(zoo.get_start(name, torch.float32)), name


def scored_by(start: Any) -> list[str] | None:
    """Ids of the modules that an initialization was made from; None for a start that has no recipe."""
    recipe = getattr(start, "recipe", None)
    found = recipe.get("scores") if recipe else getattr(start, "sources", None)
    return None if found is None else list(found)


def starting_point(start: Any, method: str | DeltaMethod, backbone: Backbone, zoo: Any) -> Point:
    """The delta that training starts from, its name, and the shared start where it is known."""
    if start is None:
        chosen = METHODS.get(method)() if isinstance(method, str) else method
        tensors, _ = shared_start(backbone, chosen, zoo)
        return Delta(chosen, dict(tensors), chosen.settings(backbone.model)), "scratch", tensors
    delta = Delta.of(start, backbone)
    named = getattr(start, "id", None) or getattr(start, "name", None) or "a given start"
    return delta, str(named), start_behind(start, zoo)


def start_behind(start: Any, zoo: Any) -> Mapping[str, Tensor] | None:
    """The shared start that the modules of an initialization, or a module, were trained from, if it is known.

    Zoos may have different starts of one name; where the sha256 is on record, only the tensors that agree are taken.
    """
    module = start if isinstance(start, Module) else getattr(start, "module", None)
    if module is not None:
        found = module.start()
        return None if found is None else dict(found)
    recipe = getattr(start, "recipe", None)
    name, known = (recipe.get(key) if recipe else getattr(start, key, None) for key in ("start", "start_sha256"))
    if not name:
        return None
    for part in _parts(zoo):
        if part.has_start(name):
            found = dict(part.get_start(name))
            if known is None or digest(found) == known:
                return found
    return None


def _parts(zoo: Any) -> list[Any]:
    """The zoos of a view, one by one."""
    return [inner for part in zoo.zoos for inner in _parts(part)] if isinstance(zoo, ZooView) else [zoo]
