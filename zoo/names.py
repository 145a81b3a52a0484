"""Names that become files: what a task, a method, an id and a file in a module folder may be called."""

from __future__ import annotations

import re

from zoo.errors import PathError

TASK = r"[a-z0-9][a-z0-9_.-]{0,99}"
METHOD = r"[a-z][a-z0-9_]{0,39}(?:-[a-z0-9_]{1,39}){0,3}"
HEX8 = r"[0-9a-f]{8}"

_ID = re.compile(rf"{TASK}-{METHOD}-{HEX8}")
# The question mark makes the dashes of the method few: of three hashes the last is the one that tells starts apart.
_START = re.compile(rf"(?P<short>{METHOD}?-{HEX8}-{HEX8})(?:-{HEX8})?")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check_id(module_id: str) -> str:
    """The id, once it is sure that it is one and stays inside the zoo's folder.

    Raises:
        PathError: it is no id.

    >>> check_id("boolq-lora-0123abcd")
    'boolq-lora-0123abcd'
    >>> check_id("../boolq-lora-0123abcd")
    Traceback (most recent call last):
    zoo.errors.PathError: '../boolq-lora-0123abcd' is not the id of a module
    try:   ids look like boolq-lora-0123abcd; transfer zoo ls lists them
    """
    if not isinstance(module_id, str) or _ID.fullmatch(module_id) is None:
        raise PathError(
            f"{module_id!r} is not the id of a module",
            hint="ids look like boolq-lora-0123abcd; transfer zoo ls lists them",
        )
    return module_id


def make_id(task: str, method: str, hexdigest: str) -> str:
    """The id of a module: its task, its method and the first 8 hex digits of its tensors' hash.

    Both task and method may have dashes, so an id is held against them and never taken apart.

    >>> make_id("boolq", "parallel-adapter", "0123abcd4567")
    'boolq-parallel-adapter-0123abcd'
    """
    return f"{task}-{method}-{hexdigest[:8]}"


def check_start(name: str) -> str:
    """The name of a shared start, once it is sure that it is one; PathError if not."""
    if not isinstance(name, str) or _START.fullmatch(name) is None:
        raise PathError(f"{name!r} is not the name of a start", hint="names look like lora-0123abcd-4567cdef")
    return name


def short_start(name: str) -> str:
    """The name of a shared start without what tells it from others of the same method, settings and backbone."""
    match = _START.fullmatch(check_start(name))
    assert match is not None
    return match["short"]


def check_file(name: str) -> str:
    """The name of a file in a module folder, once it is sure that it stays inside; PathError if not."""
    if not isinstance(name, str) or _FILE.fullmatch(name) is None:
        raise PathError(f"{name!r} is not the name of a file in a module folder")
    return name
