"""The start that all modules of a method share: what "scratch" means everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas.method import DeltaMethod


def shared_start(backbone: Backbone, method: DeltaMethod, zoo: Any = None) -> tuple[dict[str, Tensor], str | None]:
    """The stored start for these shapes and this backbone, else a fresh draw.

    Args:
        backbone: Its fingerprint decides.
        method: With settings.
        zoo: Searched for the start; None is the starter zoo.
    Returns:
        Canonical name -> fp32 tensor, and the name of the start in the zoo, or None when it was drawn.
    """
    if zoo is None:
        from zoo import Zoo

        zoo = Zoo.starter()
    name = zoo.find_start(method.method, method.start_settings(backbone.model), backbone.fingerprint)
    if name is None:
        return method.draw(backbone.model), None
    return dict(zoo.get_start(name, torch.float32)), name
