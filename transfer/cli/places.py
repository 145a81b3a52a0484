"""Where a command writes: looked at before the work, not after it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def check_new(folder: Path, mark: str, overwrite: bool) -> None:
    """Refuse a folder that holds a result already, which `mark` tells, unless it may be overwritten: ConfigError."""
    from transfer.errors import ConfigError

    if not overwrite and (folder / mark).is_file():
        raise ConfigError(f"{folder} already holds a finished result", hint="--overwrite, or another --out")


def expanded(path: Path | None) -> Path | None:
    """A callback of options: `~` as the home folder, which a shell leaves as it is in `--out=~/x`."""
    return None if path is None else path.expanduser()


@contextlib.contextmanager
def training_in(checkpoints: Path, afresh: bool) -> Iterator[None]:
    """Hold a folder of checkpoints while a training uses it; with `afresh`, what an earlier one left there goes first.

    Raises:
        ConfigError: another process holds it.
        PathError: it cannot be made.
    """
    from transfer.errors import ConfigError
    from zoo.errors import PathError, ZooError
    from zoo.locking import FILE, writing

    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PathError(f"cannot make {checkpoints}", found=error.strerror, hint="another --out") from error
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(writing(checkpoints, wait_seconds=0))
        except ZooError as error:
            raise ConfigError(
                "another process is training into the same folder", found=str(checkpoints), hint="another --out"
            ) from error
        for path in checkpoints.iterdir() if afresh else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != FILE:
                path.unlink()
        try:
            yield
        finally:
            if checkpoints.is_dir() and [path.name for path in checkpoints.iterdir()] == [FILE]:
                shutil.rmtree(checkpoints, ignore_errors=True)  # nothing that a later run could go on from


def check_file(path: Path, reads: Path, overwrite: bool) -> None:
    """Refuse to write over what is read, over a device, or over a file that is there unless it may be.

    Raises:
        ConfigError: one of these. PathError: as `check_writable`.
    """
    from transfer.errors import ConfigError

    check_writable(path, folder=False)
    if not path.exists():
        return
    if not path.is_file():
        raise ConfigError(f"{path} is no file", hint="leave out --out: answers go to standard output")
    if os.path.samefile(path, reads):
        raise ConfigError(f"{path} is the file that is read", hint="another --out")
    if not overwrite:
        raise ConfigError(f"{path} is there already", hint="--overwrite, or another --out")


def check_writable(path: Path, option: str = "--out", folder: bool = True) -> None:
    """Refuse a path that nothing can be written at.

    Args:
        path: Of a file or folder that shall be made, with the folders above it where they are missing.
        option: That names another path.
        folder: Whether it may be a folder.
    Raises:
        PathError: the closest folder above that is there may not be written, or is a file; or it is itself a folder
            where a file shall be.
    """
    from zoo.errors import PathError

    if not folder and path.is_dir():
        raise PathError(f"cannot write {path}", found="it is a folder", hint=f"{option} {path / 'answers.jsonl'}")
    above = next(part for part in Path(os.path.abspath(path.expanduser())).parents if os.path.lexists(part))
    if not above.is_dir():
        found = f"{above} is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        found = f"the folder {above} may not be written"
    else:
        return
    raise PathError(f"cannot write {path}", found=found, hint=f"another {option}")
