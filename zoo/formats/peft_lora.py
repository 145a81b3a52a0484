"""LoRA in PEFT's layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import HEADS, count, is_number, left_out, lora_rank, lora_settings, number, renamed, strings
from zoo.formats.peft_names import Front, fit_places, task_type
from zoo.formats.peft_variants import refuse_variants, refuse_whole_modules
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

FRONT = "base_model.model."
_LINEAR = re.compile(r"(?:base_model\.model\.)?(?P<place>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_EMBEDDING = re.compile(r"(?:base_model\.model\.)?(?P<place>.+)\.lora_embedding_(?P<part>[AB])(?:\.default)?")


def why_not(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why PEFT would compute something else; None if it would not."""
    places = places_of("lora", settings)
    for name in ("ranks", "alphas"):
        own = settings.get(name) or {}
        for place in own:
            longer = [other for other in places if other.endswith(f".{place}") and own.get(other) != own[place]]
            if longer:
                return f"PEFT matches the ends of names: the {name} of {place!r} would also go to {longer[0]!r}"
    return None


def config(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], kind: str | None) -> dict[str, Any]:
    """The fields of `LoraConfig`. Places are written in full, so that nothing else matches."""
    places = places_of("lora", settings)
    return {
        "peft_type": "LORA",
        "task_type": None if kind is None else task_type(kind, places),
        "r": settings["rank"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings.get("dropout", 0.0),
        "target_modules": places,
        "rank_pattern": _longest_first(settings.get("ranks")),
        "alpha_pattern": _longest_first(settings.get("alphas")),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }


def _longest_first(own: Mapping[str, Any] | None) -> dict[str, Any]:
    """PEFT takes the first pattern that matches the end of a name."""
    return dict(sorted((own or {}).items(), key=lambda item: -len(item[0])))


def to_file(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Canonical names -> names in the file; on embeddings PEFT calls A and B otherwise."""
    embeddings = {f"{place}.{part}" for place in settings.get("embeddings") or () for part in ("lora_A", "lora_B")}
    return {
        f"{FRONT}{name.replace('.lora_', '.lora_embedding_')}"
        if name in embeddings
        else f"{FRONT}{name}.weight": tensor
        for name, tensor in tensors.items()
    }


def from_file(settings: Mapping[str, Any], file: FileTensors) -> Mapping[str, torch.Tensor]:
    """The way back, for files of ours."""
    names = {
        name.removeprefix(FRONT).removesuffix(".weight").replace(".lora_embedding_", ".lora_"): name for name in file
    }
    return RenamedTensors({name: partial(file.__getitem__, inside) for name, inside in names.items()})


def read(folder: Path, config: Mapping[str, Any], file: FileTensors, places: Sequence[str] | None) -> Checkpoint:
    """Read anyone's LoRA: scales are folded into an alpha for each place where they differ, heads are dropped."""
    refuse_variants(folder, config)
    found, dropped = _parts(folder, file, config)
    front, notes = fit_places(folder, list(found), places)
    if lost := _lost(folder, config, dropped, front, places):
        raise refuse_whole_modules(folder, lost)
    named = {front(place): parts for place, parts in found.items()}
    kept = list(named) if places is None else [place for place in places if place in named]
    shapes = file.shapes()
    rank, alpha = count(folder, config, "r", 8), float(number(folder, config, "lora_alpha", 8))
    ranks, alphas = {}, {}
    for place in kept:
        a, b = named[place]["lora_A"], named[place]["lora_B"]
        own = lora_rank(folder, place, shapes[a], shapes[b])
        own_alpha = _at(config.get("alpha_pattern"), _original(a), alpha)
        # PEFT scales by alpha / sqrt(r) here, we by alpha / r.
        ranks[place] = own
        alphas[place] = own_alpha * math.sqrt(own) if config.get("use_rslora") else own_alpha
    settings = lora_settings(rank, ranks, alphas, float(number(folder, config, "lora_dropout", 0.0)), kept)
    if embeddings := [place for place in kept if ".lora_embedding_A" in named[place]["lora_A"]]:
        settings["embeddings"] = embeddings
    notes += left_out(dropped)
    if config.get("use_rslora"):
        notes.append("rank-stabilised: its scale alpha / sqrt(rank) is kept as an alpha of the same effect")
    return Checkpoint(
        method="lora",
        settings=settings,
        tensors=renamed(file, named, kept, ("lora_A", "lora_B")),
        backbone=str(config.get("base_model_name_or_path") or ""),
        stripped=front.shown,
        dropped=tuple(dropped),
        notes=tuple(notes),
    )


def _parts(folder: Path, file: FileTensors, config: Mapping[str, Any]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(place as in the file -> local name -> name in the file, names of other tensors)."""
    saved = strings(folder, config, "modules_to_save")
    found: dict[str, dict[str, str]] = {}
    dropped = []
    for name in file:
        match = _LINEAR.fullmatch(name) or _EMBEDDING.fullmatch(name)
        if match:
            found.setdefault(match["place"], {})[f"lora_{match['part']}"] = name
        elif "lora_" in name:
            raise FormatError(
                f"{folder} is not a plain LoRA",
                found=f"it has {name}",
                hint="only A and B of linear layers and embeddings are read",
            )
        elif _is_head(name, saved):
            dropped.append(name)
        else:
            raise FormatError(f"{folder} has a tensor that is no part of a LoRA", found=name)
    halves = [place for place, parts in found.items() if len(parts) != 2]
    if halves:
        raise FormatError(f"{folder} has only one of A and B at {halves[0]}", found=f"{len(halves)} such places")
    if not found:
        raise FormatError(f"{folder} has no LoRA tensors in it", found=f"{len(file)} tensors")
    return found, dropped


def _is_head(name: str, saved: Sequence[str]) -> bool:
    """A module that was trained in full beside the LoRA, as task heads are, or an embedding saved along."""
    parts = name.split(".")
    return "modules_to_save" in parts or any(head in parts for head in (*HEADS, "lm_head", "embed_tokens", *saved))


def _lost(
    folder: Path, config: Mapping[str, Any], dropped: Sequence[str], front: Front, places: Sequence[str] | None
) -> list[str]:
    """Modules of the backbone among what was trained in full and would be left out.

    A head is none of them. Nor is a pooler, which the backbone may have: no answer passes it. An embedding that is
    there without having been asked for was saved along, after its vocabulary was made larger.
    """
    saved, known, found = strings(folder, config, "modules_to_save"), set(places or ()), []
    for name in dropped:
        parts = name.removeprefix(FRONT).split(".")[:-1]
        trained = "modules_to_save" in parts or any(part in saved for part in parts)
        module = front(".".join(part for part in parts if part not in ("modules_to_save", "default")))
        if trained and module in known and not set(HEADS) & set(parts):
            found.append(module)
    return sorted(set(found))


def _original(name: str) -> str:
    """The name that PEFT matches patterns against: that of the layer, without its own front."""
    return name.removeprefix(FRONT).partition(".lora_")[0]


def _at(patterns: Any, place: str, default: float) -> float:
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if not is_number(value):
            raise FormatError(f"alpha_pattern gives {pattern!r} the value {str(value)[:40]!r}, which is not a number")
        # As peft.utils.other.get_pattern_key: a regular expression for the end of the name.
        if re.match(rf"(.*\.)?({_tame(pattern)})$", place):
            return float(value)
    return default


def _tame(pattern: str) -> str:
    """A pattern that cannot keep the matcher busy for hours: it comes from a stranger."""
    wild = len(pattern) > 500 or sum(map(pattern.count, "*+{")) > 3 or re.search(r"\)[*+{?]", pattern)
    try:
        re.compile(pattern)
    except re.error:
        wild = True
    if wild:
        raise FormatError(f"{pattern[:80]!r} in alpha_pattern is not a pattern for names of layers")
    return pattern
