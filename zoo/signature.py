"""Signature: small arrays by which a module is compared without its training data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.errors import TensorError

VERSION = 1
MOST_EXAMPLES = 64
SKETCH = 1024

TASK_FIELDS = ("centroid", "variance", "examples")  # of the task: the same for all methods
MODULE_FIELDS = ("weight_sketch", "gradient_sketch", "block_norms")  # of one module
DATA_FIELDS = (*TASK_FIELDS, "gradient_sketch")  # computed from training examples, about which they can tell
HALF_FIELDS = ("examples",)  # fp16 on disk

_DIMENSIONS = {"centroid": 1, "variance": 1, "examples": 2, "weight_sketch": 1, "gradient_sketch": 1, "block_norms": 1}


@dataclass(frozen=True, kw_only=True, eq=False)
class Signature:
    """Arrays of one module, each None where it is not known. fp32 and read-only in memory.

    Args:
        centroid: Mean embedding of the source task's inputs on the bare backbone, (width,).
        variance: Variance of each coordinate, (width,), at least 0.
        examples: Embeddings of up to 64 inputs, (n, width).
        weight_sketch: Random projections of the module's change of the weights, (1024,).
        gradient_sketch: Random projections of the source task's gradient at the shared start, (1024,).
        block_norms: Norm of the change in each block, (blocks,), at least 0.
        version: Of the way they are computed; arrays of different versions are not comparable.
    Raises:
        TensorError: an array is not finite, has a wrong shape, or a variance or norm is negative.
    """

    version: int = VERSION
    centroid: np.ndarray | None = None
    variance: np.ndarray | None = None
    examples: np.ndarray | None = None
    weight_sketch: np.ndarray | None = None
    gradient_sketch: np.ndarray | None = None
    block_norms: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise TensorError(
                f"the signature has version {self.version!r}, this version reads {VERSION}",
                hint="compute the signature again, or pip install -U transfer-zoo",
            )
        for name in (*TASK_FIELDS, *MODULE_FIELDS):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checked(name, value))
        self._check_widths()

    def _check_widths(self) -> None:
        widths = {name: getattr(self, name).shape[-1] for name in TASK_FIELDS if getattr(self, name) is not None}
        if len(set(widths.values())) > 1:
            raise TensorError(
                "the signature's arrays are of different backbones",
                found=", ".join(f"{name} has width {width}" for name, width in widths.items()),
            )

    @property
    def holds(self) -> tuple[str, ...]:
        """Names of the arrays that are there."""
        return tuple(name for name in (*TASK_FIELDS, *MODULE_FIELDS) if getattr(self, name) is not None)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, for those that are there."""
        return {name: getattr(self, name) for name in self.holds}

    def task_part(self) -> Signature:
        """Only what all modules of the task share."""
        return self._only(TASK_FIELDS)

    def module_part(self) -> Signature:
        """Only what is this module's own."""
        return self._only(MODULE_FIELDS)

    def without_data(self) -> Signature:
        """Only what the module's tensors tell anyway; nothing computed from training examples."""
        return self._only(tuple(name for name in MODULE_FIELDS if name not in DATA_FIELDS))

    def merge(self, other: Signature | None) -> Signature:
        """Arrays of both; where both have one, this one's."""
        if other is None:
            return self
        arrays: dict[str, Any] = {**other.arrays(), **self.arrays()}
        return Signature(version=self.version, **arrays)

    def with_task(self, task: Signature | None) -> Signature:
        """This module's own arrays with the task's; where both have one, the task's."""
        return self if task is None else task.task_part().merge(self)

    def _only(self, names: tuple[str, ...]) -> Signature:
        return Signature(version=self.version, **{name: getattr(self, name) for name in names})

    def __bool__(self) -> bool:
        return bool(self.holds)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signature):
            return NotImplemented
        return self.holds == other.holds and all(np.array_equal(a, getattr(other, n)) for n, a in self.arrays().items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Signature({', '.join(f'{name}={array.shape}' for name, array in self.arrays().items())})"

    def to_bytes(self) -> bytes:
        """A safetensors file: the same arrays always give the same bytes.

        Raises:
            TensorError: an example is too large for fp16.
        """
        from safetensors.numpy import save

        stored = {}
        for name, array in self.arrays().items():
            with np.errstate(over="ignore"):
                kept = np.ascontiguousarray(array, dtype=np.float16 if name in HALF_FIELDS else np.float32)
            if not np.isfinite(kept).all():
                raise TensorError(f"{name} has values too large for fp16, up to {float(np.abs(array).max()):.3g}")
            stored[name] = kept
        return save(stored, metadata={"signature": str(self.version)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Signature:
        """Read what `to_bytes` wrote; TensorError if it is not that."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
        except (SafetensorError, KeyError, ValueError) as error:
            raise TensorError("a signature file cannot be read", found=str(error)) from None
        return cls._from_arrays(arrays)

    @classmethod
    def _from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Signature:
        known = {f.name for f in dataclasses.fields(cls)} - {"version"}
        unknown = sorted(set(arrays) - known)
        if unknown:
            raise TensorError(f"a signature has no array named {unknown[0]!r}", found=", ".join(sorted(known)))
        known_arrays: dict[str, Any] = dict(arrays)
        return cls(**known_arrays)


def _checked(name: str, value: Any) -> np.ndarray:
    owned = isinstance(value, np.ndarray) and value.dtype == np.float32 and value.base is None
    # A copy, so that the caller's array stays writable; but not again for each part and merge of a signature.
    array: np.ndarray = value if owned and not value.flags.writeable else np.array(value, dtype=np.float32)
    if array.ndim != _DIMENSIONS[name] or array.size == 0:
        raise TensorError(f"{name} has the shape {array.shape}, not {_DIMENSIONS[name]} dimensions with values")
    if name == "examples" and len(array) > MOST_EXAMPLES:
        raise TensorError(f"{name} has {len(array)} rows, at most {MOST_EXAMPLES} are kept")
    if name.endswith("_sketch") and array.shape != (SKETCH,):
        raise TensorError(f"{name} has the shape {array.shape}, not ({SKETCH},)")
    if not np.isfinite(array).all():
        raise TensorError(f"{name} has values that are not finite")
    if name in ("variance", "block_norms") and (array < 0).any():
        raise TensorError(f"{name} has negative values")
    array.flags.writeable = False
    return array
