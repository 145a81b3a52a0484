"""Which backbone a module fits: a hash of the weights and the vocabulary, not of names or versions."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from transfer.deltas.attached import backbone_parameters
from transfer.paths import cache_folder

logger = logging.getLogger(__name__)

_SKIP = ("pooler.", "lm_head.", "cls.", "classifier.", "score.", "qa_outputs.")
_RULES = 1  # goes up when the same folder would get another fingerprint


def fingerprint(model: torch.nn.Module, tokenizer: Any) -> str:
    """64 hex digits: fp32 bytes of the base model's parameters, sorted by name, and the vocabulary.

    The prefix of a task class (`bert.`), pooler and task heads are left out, so `BertModel`, `BertForMaskedLM` and a
    sentence encoder with the same weights agree. Deltas that are on the model are no part of it. Buffers are left out:
    they differ between versions of transformers.
    """
    base = base_of(model)
    own = {id(parameter) for _, parameter in backbone_parameters(base)}
    digest = hashlib.sha256()
    for name, parameter in sorted(base.named_parameters(), key=lambda item: item[0]):
        if name.startswith(_SKIP) or id(parameter) not in own:
            continue
        values = parameter.detach().to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    digest.update(json.dumps(vocabulary, ensure_ascii=True).encode())
    return digest.hexdigest()


def base_of(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside a task class such as `BertForMaskedLM`; the model itself where there is none."""
    prefix = str(getattr(model, "base_model_prefix", ""))
    inner = getattr(model, prefix, None) if prefix else None
    return inner if isinstance(inner, torch.nn.Module) else model


def cached_fingerprint(folder: Path, model: torch.nn.Module, tokenizer: Any) -> str:
    """The same, remembered per folder for as long as no file in it changes (path, size and time of each)."""
    key = _folder_key(folder)
    store = cache_folder() / "fingerprints.json"
    known = _read(store)
    if key not in known:
        known = {**_read(store), key: fingerprint(model, tokenizer)}
        _write(store, known)
    return known[key]


def _folder_key(folder: Path) -> str:
    rows: list[Any] = [_RULES]
    for file in sorted(folder.iterdir()):
        if file.is_file():
            state = file.stat()
            rows.append([str(file.resolve()), state.st_size, state.st_mtime_ns])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _read(store: Path) -> dict[str, str]:
    try:
        found = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a lost or broken cache only costs the time to hash again
        return {}
    return found if isinstance(found, dict) else {}


def _write(store: Path, known: dict[str, str]) -> None:
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=store.parent, prefix=".fingerprints-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file)
        os.replace(name, store)
    except OSError as error:  # a home that cannot be written to only costs the time to hash again
        logger.debug("the fingerprint is not remembered: %s", error)
