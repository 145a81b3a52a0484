"""The store: trained modules with their cards, files and checksums. Knows nothing of models.

>>> import tempfile
>>> from zoo import Zoo
>>> zoo = Zoo(tempfile.mkdtemp())
>>> len(zoo), zoo.find(task="boolq")
(0, [])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.lazy import lazy_names

if TYPE_CHECKING:
    from zoo.card import Card
    from zoo.catalog import Entry
    from zoo.errors import (
        CardError,
        ChecksumError,
        FingerprintError,
        FormatError,
        PathError,
        TensorError,
        UnknownModuleError,
        ZooError,
    )
    from zoo.module import Module
    from zoo.signature import Signature
    from zoo.store import Zoo
    from zoo.verify import Problem
    from zoo.view import ZooView

# Public name -> file; imported on first use, since tensors need torch and cards pydantic.
_FILES = {
    "Card": "card",
    "CardError": "errors",
    "ChecksumError": "errors",
    "Entry": "catalog",
    "FingerprintError": "errors",
    "FormatError": "errors",
    "Module": "module",
    "PathError": "errors",
    "Problem": "verify",
    "Signature": "signature",
    "TensorError": "errors",
    "UnknownModuleError": "errors",
    "Zoo": "store",
    "ZooError": "errors",
    "ZooView": "view",
}

__all__ = [
    "Card",
    "CardError",
    "ChecksumError",
    "Entry",
    "FingerprintError",
    "FormatError",
    "Module",
    "PathError",
    "Problem",
    "Signature",
    "TensorError",
    "UnknownModuleError",
    "Zoo",
    "ZooError",
    "ZooView",
]


__getattr__, __dir__ = lazy_names(__name__, _FILES)
