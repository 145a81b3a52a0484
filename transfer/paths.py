"""Where `transfer` keeps things outside a project."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The platform's cache folder for `transfer`; everything in it can be deleted at any time."""
    return Path(platformdirs.user_cache_dir("transfer", appauthor=False))
