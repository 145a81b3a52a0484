"""FAISS index over the example embeddings in signatures: which source examples are closest to a target's.

The examples of a task stand in the index once, however many modules share them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from zoo.errors import TensorError, ZooError
from zoo.files import plain_file, write_whole
from zoo.module import Module

VERSION = 1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Neighbours:
    """The nearest source examples of each query, closest first.

    Args:
        groups: (queries, k) index into `owners`; -1 where there are fewer than k examples.
        similarity: (queries, k) cosine in [-1, 1]; -1 where there is none.
        owners: For each group of examples the ids of the modules that share it, sorted.
    """

    groups: np.ndarray
    similarity: np.ndarray
    owners: tuple[tuple[str, ...], ...]

    def pairs(self) -> list[list[tuple[str, float]]]:
        """For each query (module id, similarity); a group that several modules share stands once for each."""
        return [
            [(owner, float(s)) for g, s in zip(row, values, strict=True) if g >= 0 for owner in self.owners[g]]
            for row, values in zip(self.groups, self.similarity, strict=True)
        ]


class SignatureIndex:
    """Exact nearest neighbours by cosine. Modules can be added at any time.

    Args:
        width: Of the embeddings.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._faiss: Any = faiss.IndexFlatIP(width)
        self._group_of: list[int] = []  # row -> group
        self._owners: list[set[str]] = []  # group -> module ids
        self._keys: dict[str, int] = {}  # hash of the examples -> group
        self._left_out: set[str] = set()

    @classmethod
    def build(cls, modules: Iterable[Module]) -> SignatureIndex:
        """An index over these modules.

        Raises:
            TensorError: none of them has example embeddings, or they are of different widths.
        """
        index: SignatureIndex | None = None
        passed: list[str] = []
        for module in modules:
            examples = module.signature.examples
            if examples is None:
                passed.append(module.id)
                continue
            index = index or cls(examples.shape[1])
            index.add(module)
        if index is None:
            raise TensorError(
                "no module has example embeddings to compare with",
                found=f"{len(passed)} modules without",
                hint="add modules with a signature: transfer zoo build computes it",
            )
        index._left_out.update(passed)
        return index

    def add(self, module: Module) -> bool:
        """Put a module in; False if it has no example embeddings. One that is in already changes nothing.

        Raises:
            TensorError: the embeddings are of another width.
        """
        examples = module.signature.examples
        if examples is None:
            self._left_out.add(module.id)
            return False
        if examples.shape[1] != self.width:
            raise TensorError(
                f"the embeddings of {module.id!r} have width {examples.shape[1]}, the index has {self.width}",
                hint="modules of one backbone go into one index",
            )
        rows = _unit(examples)
        key = hashlib.sha256(rows.tobytes()).hexdigest()
        group = self._keys.get(key)
        if group is None:
            group = self._keys[key] = len(self._owners)
            self._owners.append(set())
            self._faiss.add(rows)
            self._group_of += [group] * len(rows)
        self._owners[group].add(module.id)
        return True

    def search(self, queries: np.ndarray, k: int = 10) -> Neighbours:
        """The k nearest examples of each query.

        Args:
            queries: (queries, width); need not be of unit length.
            k: At least 1.
        Raises:
            TensorError: the queries have another width or are not finite.
        """
        found = np.asarray(queries, dtype=np.float32)
        if found.ndim != 2 or found.shape[1] != self.width:
            raise TensorError(f"queries have the shape {found.shape}, not (queries, {self.width})")
        if not np.isfinite(found).all():
            raise TensorError("queries are not finite")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        similarity, rows = self._faiss.search(_unit(found), k)
        groups = np.append(np.asarray(self._group_of, dtype=np.int64), -1)[rows]  # FAISS says -1 for none: the last
        similarity = np.where(rows < 0, -1.0, np.clip(similarity, -1.0, 1.0)).astype(np.float32)
        return Neighbours(groups, similarity, self.owners)

    @property
    def owners(self) -> tuple[tuple[str, ...], ...]:
        """Module ids of each group of examples."""
        return tuple(tuple(sorted(ids)) for ids in self._owners)

    @property
    def ids(self) -> set[str]:
        """Modules that are in, and those that were passed by since they have no examples."""
        return set().union(*self._owners) | self._left_out

    @property
    def left_out(self) -> list[str]:
        """Modules without example embeddings, sorted."""
        return sorted(self._left_out)

    def __len__(self) -> int:
        """Number of example embeddings."""
        return len(self._group_of)

    def save(self, path: Path) -> None:
        """Write the index into one file, whole or not at all."""
        keys = sorted(self._keys, key=lambda key: self._keys[key])
        told = {
            "version": VERSION,
            "width": self.width,
            "group_of": self._group_of,
            "owners": self.owners,
            "keys": keys,
            "left_out": self.left_out,
        }
        # One file, so that vectors and owners cannot come from two writers.
        vectors = faiss.serialize_index(self._faiss)
        text = json.dumps(told).encode()
        write_whole(path, len(text).to_bytes(8, "little") + text + vectors.tobytes())

    @classmethod
    def load(cls, path: Path) -> SignatureIndex:
        """Read what `save` wrote; ValueError or OSError if it is not that."""
        content = plain_file(path).read_bytes()
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])
        if told.get("version") != VERSION:
            raise ValueError(f"an index of version {told.get('version')!r}")
        index = cls(int(told["width"]))
        index._faiss = faiss.deserialize_index(np.frombuffer(content[8 + size :], dtype=np.uint8))
        index._group_of = list(told["group_of"])
        index._owners = [set(ids) for ids in told["owners"]]
        index._keys = {key: group for group, key in enumerate(told["keys"])}
        index._left_out = set(told["left_out"])
        if index._faiss.ntotal != len(index._group_of) or index._faiss.d != index.width:
            raise ValueError("vectors and owners are not of one index")
        return index


def kept_index(modules: Sequence[Module], fingerprint: str, folder: Path) -> SignatureIndex:
    """The index over these modules, kept in a folder between processes.

    New modules are added to the kept one; if one is gone, or the file cannot be read, it is built again.
    """
    path = folder / f"index-{fingerprint[:8]}.faiss"
    by_id = {module.id: module for module in modules}
    try:
        index: SignatureIndex | None = SignatureIndex.load(path)
    except FileNotFoundError:
        index = None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ZooError) as error:
        log.info("the index %s is built again: %s", path, error)
        index = None
    if index is not None and index.ids <= set(by_id):
        new = sorted(set(by_id) - index.ids)
        for module_id in new:
            index.add(by_id[module_id])
    else:
        index, new = SignatureIndex.build(by_id.values()), list(by_id)
    if new:
        try:
            index.save(path)
        except OSError as error:  # a cache that cannot be written costs the time to build it again, nothing else
            log.info("the index %s cannot be kept: %s", path, error)
    return index


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = np.ascontiguousarray(rows / np.where(norms > 0, norms, 1.0), dtype=np.float32)
    return unit
