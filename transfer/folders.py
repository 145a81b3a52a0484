"""Folders that are written whole or not at all, and that take the place of their like only."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from transfer.errors import ConfigError
from zoo.files import sync


@contextlib.contextmanager
def whole_folder(folder: Path, files: Sequence[str], mark: str) -> Iterator[Path]:
    """A hidden folder beside `folder`, which takes its place when the block ends without an error.

    A kill leaves the old folder or the new one; between two renames neither stands there, and both lie beside it.

    Args:
        folder: Where it shall be. What is there is replaced if it holds `mark` and only `files`.
        files: Names that a folder of this kind may hold.
        mark: The one by which it is known.
    Raises:
        ConfigError: something else is there.
    """
    old = check_replaceable(folder, files, mark)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-new-"))
    try:
        part.chmod(0o755)
        yield part
        sync(part)
        check_replaceable(folder, files, mark)  # something may have come there meanwhile
        if old:
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
            aside.rmdir()  # its name is all that was wanted
            os.rename(folder, aside)
            os.rename(part, folder)
            shutil.rmtree(aside)
        else:
            if folder.exists():
                folder.rmdir()
            os.rename(part, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(folder: Path, files: Sequence[str], mark: str) -> bool:
    """True if something is there that may be replaced, False if nothing is, or an empty folder.

    Raises:
        ConfigError: something else is there.
    """
    if not os.path.lexists(folder):
        return False
    there = sorted(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else None
    if there == []:
        return False
    others = [] if there is None else [name for name in there if name not in files]
    if there is None or others or mark not in there:
        raise ConfigError(
            f"{folder} is there already and holds something else",
            found=", ".join(others[:5] or there or ["no folder"]),
            hint="name another folder: --out FOLDER",
        )
    return True
