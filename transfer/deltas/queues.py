"""Sites that act at one module, in the order they were attached.

The list lies on the module, so that copies and pickles of a model take it along.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def queue_of(module: nn.Module, key: str) -> list[Any]:
    """The sites under `key`, the one attached first in front; not to be changed."""
    queue: list[Any] = module.__dict__.get(key, [])
    return queue


def join_queue(module: nn.Module, key: str, site: nn.Module) -> None:
    """Put a site last."""
    module.__dict__.setdefault(key, []).append(site)


def leave_queue(module: nn.Module, key: str, site: nn.Module) -> None:
    """Take a site out; nothing is left on a module without sites."""
    left = [other for other in queue_of(module, key) if other is not site]
    if left:
        module.__dict__[key] = left
    else:
        module.__dict__.pop(key, None)
