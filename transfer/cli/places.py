"""Where a command writes: looked at before the work, not after it."""

from __future__ import annotations

import os
from pathlib import Path


def check_new(folder: Path, mark: str, overwrite: bool) -> None:
    """Refuse a folder that holds a result already, which `mark` tells, unless it may be overwritten: ConfigError."""
    from transfer.errors import ConfigError

    if not overwrite and (folder / mark).is_file():
        raise ConfigError(f"{folder} already holds a finished result", hint="--overwrite, or another --out")


def check_writable(path: Path, option: str = "--out") -> None:
    """Refuse a path that nothing can be written at.

    Args:
        path: Of a file or folder that shall be made, with the folders above it where they are missing.
        option: That names another path.
    Raises:
        PathError: the closest folder above that is there may not be written, or is a file.
    """
    from zoo.errors import PathError

    above = next(part for part in Path(os.path.abspath(path.expanduser())).parents if os.path.lexists(part))
    if not above.is_dir():
        found = f"{above} is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        found = f"the folder {above} may not be written"
    else:
        return
    raise PathError(f"cannot write {path}", found=found, hint=f"another {option}")
