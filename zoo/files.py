"""Files that are written whole or not at all, and read only if they are plain files."""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
import tempfile
from pathlib import Path

from zoo.errors import ChecksumError, PathError

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """64 hex digits of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def plain_file(path: Path) -> Path:
    """The path, once it is sure that a plain file is there: no link, which could lead out of the zoo.

    Raises:
        PathError: it is a link, a folder or a device.
        FileNotFoundError: nothing is there.
    """
    mode = os.lstat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no plain file"
        raise PathError(f"{path} is {kind}; a zoo holds plain files only", hint=_COPY if stat.S_ISLNK(mode) else None)
    return path


def followed_file(path: Path) -> Path:
    """The plain file that a path in a stranger's folder leads to: itself, or what a link means that stays with it.

    A link may lead to a file in its own folder or, in the cache of the Hugging Face Hub, out of a `snapshots` folder
    into the `blobs` beside it.

    Raises:
        PathError: it is a link to somewhere else, a folder or a device.
        FileNotFoundError: nothing is there.
    """
    if not path.is_symlink():
        return plain_file(path)
    folder = path.parent.resolve()
    snapshots = next((above for above in folder.parents if above.name == "snapshots"), None)
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:  # links in a circle, as different versions of Python tell it
        raise PathError(f"{path} is a link that leads nowhere", found=str(error)) from None
    homes = [folder] if snapshots is None else [folder, snapshots.parent / "blobs"]
    if not any(target.is_relative_to(home) for home in homes):
        raise PathError(f"{path} is a link out of its folder", found=str(target), hint=_COPY)
    return plain_file(target)


_COPY = "cp -rL FOLDER ELSEWHERE copies the folder with what its links lead to"


def check_file_hash(path: Path, expected: str) -> None:
    """ChecksumError unless the file's sha256 is the expected one."""
    found = sha256(plain_file(path))
    if found != expected:
        raise ChecksumError(
            f"{path} is not the file that was stored",
            found=f"sha256 {found[:12]}..., recorded {expected[:12]}...",
            hint=_make_again(path),
        )


def _make_again(path: Path) -> str:
    """What to do about a file that was changed: in a zoo, modules/ID/FILE, and elsewhere."""
    folder = path.parent.parent
    if folder.name != "modules":
        return f"make {path.parent} again: something else was written into it"
    return f"transfer zoo verify --zoo {shlex.quote(str(folder.parent))} names all such modules; add them again"


def sync(path: Path) -> None:
    """Have the system write a file or a folder's list of names to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle on a folder's list of names
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_through(path: Path, content: bytes) -> None:
    """Write a new file and have it on the disk; for folders that nobody sees yet."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)  # mkstemp keeps others from reading; a zoo may be shared
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    sync(path.parent)
