"""Folders that are written whole or not at all, and that take the place of their like only."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo.errors import PathError
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
        PathError: something else is there.
    """
    check_replaceable(folder, files, mark)
    folder = Path(os.path.abspath(folder))  # what ends in .. has neither a name nor a place beside it
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-new-"))
    try:
        part.chmod(0o755)
        yield part
        for path in (*part.iterdir(), part):
            sync(path)
        if check_replaceable(folder, files, mark):  # again: something may have come there meanwhile
            aside = _free_name(folder)
            os.rename(folder, aside)
            try:
                os.rename(part, folder)
            except BaseException:
                os.rename(aside, folder)
                raise
            sync(folder.parent)
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
        PathError: something else is there: a file, a link, a folder without `mark`, or one with more than `files`. Or
            it is the current folder: another one would take its place, and whoever stands in it would stand nowhere.
    """
    if not os.path.lexists(folder):
        return False
    if os.path.exists(folder) and os.path.samefile(folder, os.curdir):
        raise PathError(
            f"{folder} is the current folder, which cannot be replaced",
            hint="name a folder in it or beside it, which is then made",
        )
    if folder.is_symlink() or not folder.is_dir():
        raise _refused(folder, "no folder")
    there = sorted(os.listdir(folder))
    if not there:
        return False
    others = [name for name in there if name not in files or not stat.S_ISREG(os.lstat(folder / name).st_mode)]
    if others or mark not in there:
        raise _refused(folder, ", ".join((others or there)[:5]))
    return True


def _refused(folder: Path, found: str) -> PathError:
    return PathError(f"{folder} is there already and holds something else", found=found, hint="name another folder")


def _free_name(folder: Path) -> Path:
    """A hidden name beside the folder."""
    path = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
    path.rmdir()
    return path
