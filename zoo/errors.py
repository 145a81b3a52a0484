"""Errors in three parts: what was asked, what is there, what to do."""

from __future__ import annotations


class ExplainedError(Exception):
    """Base of every error raised on purpose, in `zoo` and in `transfer`.

    Args:
        asked: What was asked and why it failed, one line.
        found: What is there instead, or None.
        hint: What to do about it: best a command that can be copied, or None.

    >>> print(ExplainedError("no module 'x' in ./zoo", found="2 modules", hint="transfer zoo ls"))
    no module 'x' in ./zoo
    found: 2 modules
    try:   transfer zoo ls
    """

    def __init__(self, asked: str, *, found: str | None = None, hint: str | None = None) -> None:
        super().__init__(asked, found, hint)
        self.asked, self.found, self.hint = asked, found, hint

    def __str__(self) -> str:
        lines = [self.asked]
        if self.found:
            lines.append(f"found: {self.found}")
        if self.hint:
            lines.append(f"try:   {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own __reduce__ knows no keyword arguments; without this a worker process cannot hand one back.
        return _rebuild, (type(self), self.asked, self.found, self.hint)


def _rebuild(kind: type[ExplainedError], asked: str, found: str | None, hint: str | None) -> ExplainedError:
    return kind(asked, found=found, hint=hint)


class ZooError(ExplainedError):
    """Base of every error of the store."""


class CardError(ZooError, ValueError):
    """A card is missing a field or has one that cannot be."""


class TensorError(ZooError, ValueError):
    """A module's tensors are not finite, have wrong shapes or cannot be read."""


class ChecksumError(ZooError):
    """A file is not the one that was stored."""


class FingerprintError(ZooError):
    """A module was trained on another backbone."""


class UnknownModuleError(ZooError, LookupError):
    """No such module in this zoo."""


class PathError(ZooError, ValueError):
    """An id or a file name would leave the zoo's folder, or something else stands where a folder shall be written."""


class FormatError(ZooError, ValueError):
    """A checkpoint of another library cannot be read, or cannot hold what is written."""
