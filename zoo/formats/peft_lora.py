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
from zoo.formats.peft_names import fit_places, task_type
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

FRONT = "base_model.model."

# Settings of peft.LoraConfig that make something else of a LoRA; each is refused unless it is empty.
_OTHER = {
    "use_dora": "DoRA, whose magnitudes a plain LoRA lacks",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "a bias on B",
    "layer_replication": "replicated layers",
    "target_parameters": "parameters that are no layers",
    "trainable_token_indices": "trained token embeddings",
    "alora_invocation_tokens": "activated LoRA, which acts on a part of the text only",
    "arrow_config": "an Arrow router",
    "kasa_config": "KaSA",
    "velora_config": None,  # changes how gradients are kept in training, not what is computed
    "monteclora_config": "MonteCLoRA",
}
# Ways of drawing the start that also change the backbone's own weights: the delta is not against those of the Hub.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


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
    """Canonical names -> names in the file."""
    return {f"{FRONT}{name}.weight": tensor for name, tensor in tensors.items()}


def from_file(settings: Mapping[str, Any], file: FileTensors) -> Mapping[str, torch.Tensor]:
    """The way back, for files of ours."""
    names = {name.removeprefix(FRONT).removesuffix(".weight"): name for name in file}
    return RenamedTensors({name: partial(file.__getitem__, inside) for name, inside in names.items()})


def read(folder: Path, config: Mapping[str, Any], file: FileTensors, places: Sequence[str] | None) -> Checkpoint:
    """Read anyone's LoRA: scales are folded into an alpha for each place where they differ, heads are dropped."""
    _refuse_others(folder, config)
    found, dropped = _parts(folder, file, config)
    front, notes = fit_places(folder, list(found), places)
    named = {front(place): parts for place, parts in found.items()}
    kept = list(named) if places is None else [place for place in places if place in named]
    shapes = file.shapes()
    rank, alpha = _count(folder, config, "r", 8), float(_number(folder, config, "lora_alpha", 8))
    ranks, alphas = {}, {}
    for place in kept:
        a, b = named[place]["lora_A"], named[place]["lora_B"]
        if len(shapes[a]) != 2 or len(shapes[b]) != 2 or shapes[a][0] != shapes[b][1]:
            raise FormatError(
                f"{place} in {folder} is no LoRA of a linear layer", found=f"A {shapes[a]}, B {shapes[b]}"
            )
        own = shapes[a][0]
        own_alpha = _at(config.get("alpha_pattern"), _original(a), alpha)
        # PEFT scales by alpha / sqrt(r) here, we by alpha / r.
        ranks[place] = own
        alphas[place] = own_alpha * math.sqrt(own) if config.get("use_rslora") else own_alpha
    settings = _settings(rank, ranks, alphas, float(config.get("lora_dropout") or 0.0), kept)
    if dropped:
        notes.append(f"{len(dropped)} tensors are no part of the delta and were left out: {', '.join(dropped[:3])}")
    if config.get("use_rslora"):
        notes.append("rank-stabilised: its scale alpha / sqrt(rank) is kept as an alpha of the same effect")
    by_name = {f"{place}.{part}": named[place][part] for place in kept for part in ("lora_A", "lora_B")}
    return Checkpoint(
        method="lora",
        settings=settings,
        tensors=RenamedTensors({name: partial(file.__getitem__, inside) for name, inside in by_name.items()}),
        backbone=str(config.get("base_model_name_or_path") or ""),
        stripped=front.shown,
        dropped=tuple(dropped),
        notes=tuple(notes),
    )


def _settings(
    rank: int, ranks: dict[str, int], alphas: dict[str, float], dropout: float, places: list[str]
) -> dict[str, Any]:
    """Settings as a card has them; exceptions are named only where there are any."""
    # The config's own rank is a default that perhaps no place has, after a rank pattern for example.
    common_rank = rank if rank in ranks.values() else next(iter(ranks.values()))
    common_alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    settings: dict[str, Any] = {
        "rank": common_rank,
        "alpha": int(common_alpha) if common_alpha == int(common_alpha) else common_alpha,
        "dropout": dropout,
        "where": sorted({place.rpartition(".")[2] for place in places}),
        "places": places,
    }
    if other := {place: own for place, own in ranks.items() if own != common_rank}:
        settings["ranks"] = other
    if other_alphas := {place: own for place, own in alphas.items() if own != common_alpha}:
        settings["alphas"] = other_alphas
    return settings


def _refuse_others(folder: Path, config: Mapping[str, Any]) -> None:
    for name, what in _OTHER.items():
        if what is not None and config.get(name):
            raise FormatError(
                f"{folder} is not a plain LoRA", found=f"{name}: {what}", hint="merge it into its model with peft"
            )
    if config.get("bias", "none") != "none":
        raise FormatError(f"{folder} also trains biases of the backbone", found=f"bias: {config['bias']!r}")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(_CHANGES_BASE):
        raise FormatError(
            f"{folder} changes the weights of its backbone before adding the delta",
            found=f"init_lora_weights: {config['init_lora_weights']!r}",
            hint="convert it with peft: model.save_pretrained(folder, path_initial_model_for_weight_conversion=...)",
        )


def _parts(folder: Path, file: FileTensors, config: Mapping[str, Any]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(place as in the file -> local name -> name in the file, names of other tensors)."""
    saved = [name for name in (config.get("modules_to_save") or []) if isinstance(name, str)]
    found: dict[str, dict[str, str]] = {}
    dropped = []
    for name in file:
        match = re.fullmatch(r"(?:base_model\.model\.)?(?P<place>.+)\.(?P<part>lora_[AB])(?:\.default)?\.weight", name)
        if match:
            found.setdefault(match["place"], {})[match["part"]] = name
        elif "lora_" in name:
            raise FormatError(
                f"{folder} is not a plain LoRA", found=f"it has {name}", hint="only A and B of linear layers are read"
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
    heads = ("classifier", "score", "qa_outputs", "pooler", "lm_head", "embed_tokens", *saved)
    return "modules_to_save" in parts or any(head in parts for head in heads)


def _original(name: str) -> str:
    """The name that PEFT matches patterns against: that of the layer, without its own front."""
    return name.removeprefix(FRONT).partition(".lora_")[0]


def _at(patterns: Any, place: str, default: float) -> float:
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise FormatError(f"alpha_pattern gives {pattern!r} the value {value!r}, which is not a number")
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


def _number(folder: Path, config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise FormatError(f"{name} in the config of {folder} is {value!r}, not a number")
    return value


def _count(folder: Path, config: Mapping[str, Any], name: str, default: int) -> int:
    value = _number(folder, config, name, default)
    if not isinstance(value, int) or value < 1:
        raise FormatError(f"{name} in the config of {folder} is {value!r}, not a count")
    return value
