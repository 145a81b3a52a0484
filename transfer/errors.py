"""What `transfer` raises on purpose; the command line prints it without a traceback and exits with 1."""

from __future__ import annotations

from zoo.errors import ExplainedError


class TransferError(ExplainedError):
    """Base of every error raised on purpose in `transfer`."""


class ConfigError(TransferError, ValueError):
    """A setting is outside its range, or two settings exclude each other."""


class DivergedError(ConfigError):
    """A tune came to tensors that are no longer finite."""


class UnknownNameError(TransferError, LookupError):
    """No such name. LookupError, since KeyError would show the message in quotes and escape its newlines."""


class DataError(TransferError, ValueError):
    """A file or a row of task data cannot be used; names the file and the line."""


class BackboneError(TransferError):
    """A backbone cannot be loaded, or cannot do what was asked of it."""


class DeltaError(TransferError, ValueError):
    """A delta does not fit the model: wrong names, shapes, places or method."""


class SourceError(TransferError):
    """No module in the zoo can serve as a source, or a module lacks what an estimator needs."""
