"""Where `transfer` keeps things outside a project, and how paths are told to others."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The platform's cache folder for `transfer`; everything in it can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("transfer", appauthor=False))


def without_folders(backbone: str) -> str:
    """The name of a backbone for cards: of an absolute path the last part, since the rest tells of a machine alone.

    >>> without_folders("/home/ann/my-bert"), without_folders("~/my-bert/"), without_folders("google/bert-base")
    ('my-bert', 'my-bert', 'google/bert-base')
    """
    path = Path(backbone)
    return path.name if path.expanduser().is_absolute() and path.name else backbone
