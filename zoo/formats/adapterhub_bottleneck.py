"""Bottleneck adapters of AdapterHub: Houlsby's, which read what a layer gives, and Pfeiffer's, which read the sum with
the residual, normalised where the model normalises after adding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats.adapterhub_places import FAMILIES, Family, Reads
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import Parts, check_whole, number, where_of
from zoo.formats.peft_names import fit_places
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

LOCAL = {
    "adapter_down.0.weight": "adapter_down.weight",
    "adapter_down.0.bias": "adapter_down.bias",
    "adapter_up.weight": "adapter_up.weight",
    "adapter_up.bias": "adapter_up.bias",
}
_UP = ("weight", "bias")
SCALING = "scaling"  # a tensor of its own where it was learned
KNOWN = ("gelu", "gelu_new", "relu", "silu", "swish", "tanh")

# Settings that make something else of an adapter; each is refused unless it is empty.
_OTHERS = {
    "is_parallel": "a parallel adapter, which reads what the sub-layer reads",
    "ln_before": "a normalisation of the adapter's own before it",
    "ln_after": "a normalisation of the adapter's own behind it",
    "use_gating": "a gate",
    "phm_layer": "a compacter, whose matrices are sums of Kronecker products",
}
_DEFAULTS: dict[str, Any] = {"original_ln_before": False, "original_ln_after": True, "residual_before_ln": True}
TRAINING = {"dropout": "dropout", "stochastic_depth": "stochastic depth"}


def why_not(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why the package cannot hold such a module; None if it can."""
    if settings.get("activation") not in KNOWN:
        return f"it has no activation {settings.get('activation')!r}"
    try:
        _chosen(settings)
    except FormatError as error:
        return str(error)
    return None


def config(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], Family, int]:
    """The fields of `BnConfig`, the family of the model, and the model's width."""
    family, named = _chosen(settings)
    flags = {spot.flag for _, spot in named.values()}
    reads_sum = settings.get("reads", "output") == "sum"
    place = places_of("adapter", settings)[0]
    bottleneck, width = tensors[f"{place}.adapter_down.weight"].shape
    fields = {
        "architecture": None,
        "mh_adapter": "mh_adapter" in flags,
        "output_adapter": "output_adapter" in flags,
        "cross_adapter": "cross_adapter" in flags,
        "reduction_factor": reduction_factor(width, bottleneck),
        "non_linearity": settings["activation"],
        "original_ln_before": reads_sum,
        "original_ln_after": True,
        "ln_before": False,
        "ln_after": False,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        # Zeros where the file has no tensors: then a place that it asks for and we lack does nothing.
        "init_weights": "mam_adapter",
        "is_parallel": False,
        "scaling": 1.0,
        "use_gating": False,
        "phm_layer": False,
        "inv_adapter": None,
        "inv_adapter_reduction_factor": None,
        "dropout": 0.0,
        "leave_out": left_out_layers(block for block, _ in named.values()),
    }
    return fields, family, width


def reduction_factor(width: int, bottleneck: int) -> float:
    """What the width is divided by, rounding down, to give the bottleneck.

    >>> int(384 // reduction_factor(384, 7)), reduction_factor(768, 48)
    (7, 16.0)
    """
    factor = width / bottleneck
    while int(width // factor) < bottleneck:
        factor = math.nextafter(factor, 0)
    return factor


def left_out_layers(blocks: Iterable[str]) -> list[int]:
    """Numbers of the blocks before the last that have nothing; none where a decoder has some, which is counted on from
    an encoder of unknown length.

    >>> left_out_layers(["h.1", "h.3"]), left_out_layers(["decoder.block.1"])
    ([0, 2], [])
    """
    there = [block.rpartition(".") for block in set(blocks)]
    if len({front for front, _, _ in there}) != 1 or "decoder" in there[0][0].split("."):
        return []
    numbers = {int(last) for _, _, last in there}
    return sorted(set(range(max(numbers))) - numbers)


def to_file(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Canonical names -> names in the file."""
    _, named = _chosen(settings)
    return {
        f"{block}.{spot.theirs}.adapters.{name}.{theirs}": tensors[f"{place}.{local}"]
        for place, (block, spot) in named.items()
        for theirs, local in LOCAL.items()
    }


def _chosen(settings: Mapping[str, Any]) -> tuple[Family, dict[str, tuple[str, Any]]]:
    """The first family that has all the places, and place -> (block, spot)."""
    places, reads = places_of("adapter", settings), settings.get("reads", "output")
    best: dict[str, Any] = {}
    for family in FAMILIES:
        named = {place: found for place in places if (found := family.spot(place, reads))}
        if len(named) == len(places):
            return family, named
        best = max(best, named, key=len)
    odd = next(place for place in places if place not in best)
    raise FormatError(f"it has no adapter at {odd!r} that reads the {'sum' if reads == 'sum' else 'output of a layer'}")


def read(
    folder: Path,
    config: Mapping[str, Any],
    family: Family,
    found: Parts,
    file: FileTensors,
    places: Sequence[str] | None,
    backbone: str,
) -> Checkpoint:
    """Read anyone's adapters: a scale is folded into `up`.

    Args:
        found: Name of what holds an adapter -> part of it -> name in the file.
        config: The adapter's own.
        backbone: Its name, as the folder has it.
    """
    reads, notes = check(folder, config)
    scaled = {theirs: parts.pop(SCALING) for theirs, parts in found.items() if SCALING in parts}
    parts = {_place(folder, theirs, family, reads): names for theirs, names in found.items()}
    scales = {_place(folder, theirs, family, reads): inside for theirs, inside in scaled.items()}
    check_whole(folder, parts, list(LOCAL.values()), "bottleneck adapter")
    front, told = fit_places(folder, list(parts), places, "adapter")
    named = {front(place): names for place, names in parts.items()}
    kept = list(named) if places is None else [place for place in places if place in named]
    factor = _factor(folder, config, file, parts, scales)
    if scales or factor != 1:
        notes.append("its scaling is folded into the weights of `up`: the effect is the same")
    tensors = {
        f"{front(place)}.{local}": partial(_value, file, inside, *(scaling if "up" in local else (1.0, None)))
        for place, names in parts.items()
        for scaling in [(factor, scales.get(place))]
        for local, inside in names.items()
    }
    settings = {
        "bottleneck": _bottleneck(folder, file, named),
        "activation": activation(folder, config),
        "where": where_of(kept),
        "places": kept,
        **({"reads": "sum"} if reads == "sum" else {}),
    }
    return Checkpoint(
        method="adapter",
        settings=settings,
        tensors=RenamedTensors({name: tensors[name] for place in kept for name in tensors if _at(place, name)}),
        backbone=backbone,
        stripped=front.shown,
        notes=(*told, *notes),
    )


def check(folder: Path, config: Mapping[str, Any]) -> tuple[Reads, list[str]]:
    """What the adapters read, and notes; FormatError, by the name of the setting, if ours cannot do what they do."""
    for name, what in _OTHERS.items():
        if config.get(name):
            raise _refused(folder, config, name, what)
    chosen = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    if not chosen["original_ln_after"]:
        raise _refused(folder, config, "original_ln_after", "no residual is added behind the adapter")
    if chosen["original_ln_before"] and chosen["residual_before_ln"] is not True:
        raise _refused(folder, config, "residual_before_ln", "the residual is added a second time")
    if chosen["residual_before_ln"] not in (True, False):
        raise _refused(folder, config, "residual_before_ln", "the package itself cannot run this without a sum before")
    notes = [f"{what} of its training is left out" for name, what in TRAINING.items() if config.get(name)]
    return ("sum" if chosen["original_ln_before"] else "output"), notes


def activation(folder: Path, config: Mapping[str, Any]) -> str:
    """Name of ours for the non-linearity."""
    said = str(config.get("non_linearity", "relu")).lower()
    if said not in KNOWN:
        raise FormatError(
            f"the adapter in {folder} has the activation {said[:40]!r}", found=f"{', '.join(KNOWN)} can be read"
        )
    return said


def _refused(folder: Path, config: Mapping[str, Any], name: str, what: str) -> FormatError:
    return FormatError(
        f"the adapter in {folder} is none that the method `adapter` can compute",
        found=f"{name} is {config.get(name)!r}: {what}",
        hint='read are adapters of "seq_bn" (Pfeiffer) and "double_seq_bn" (Houlsby)',
    )


def _place(folder: Path, theirs: str, family: Family, reads: Reads) -> str:
    found = family.spot(theirs)
    ours = found[1].ours(reads) if found else None
    if found is None or ours is None:
        raise FormatError(
            f"the adapter in {folder} is at {theirs[:120]}",
            found="that place is not known here"
            if found is None
            else "it reads a sum in the middle of a block, which no module gives",
        )
    return f"{found[0]}.{ours}" if ours else found[0]


def _factor(
    folder: Path, config: Mapping[str, Any], file: FileTensors, parts: Parts, scales: Mapping[str, str]
) -> float:
    """The scale of the config; 1 where it was learned, since the file then has it for every place."""
    said, shapes = config.get("scaling", 1.0), file.shapes()
    learned = said in ("learned", "channel")
    if odd := set(parts) ^ set(scales) if learned else set(scales):
        has = "no" if learned else "a"
        raise FormatError(f"{folder} has {has} {SCALING} at {min(odd)}", found=f"its config says {said!r}")
    for place, inside in scales.items():
        scale, up, bias = (shapes[name] for name in (inside, *(parts[place][f"adapter_up.{n}"] for n in _UP)))
        if len(up) != 2 or bias != up[:1] or scale not in ((), (1,), up[:1]):
            raise FormatError(f"{SCALING} at {place} in {folder} has the shape {scale}", found=f"`up` has {up}, {bias}")
    return 1.0 if learned else float(number(folder, config, "scaling", 1.0))


def _bottleneck(folder: Path, file: FileTensors, named: Parts) -> int:
    shapes = file.shapes()
    widths = {place: shapes[names["adapter_down.weight"]] for place, names in named.items()}
    different = sorted({shape[0] for shape in widths.values() if shape})
    if len(different) != 1:
        raise FormatError(
            f"the adapters in {folder} have bottlenecks of different widths", found=", ".join(map(str, different))
        )
    return different[0]


def _value(file: FileTensors, inside: str, factor: float, scaling: str | None) -> torch.Tensor:
    tensor = file[inside]
    if scaling is None and factor == 1:
        return tensor
    scale = (torch.ones(1) if scaling is None else file[scaling].float()).reshape(-1) * factor  # (1,) or (width,)
    value = tensor.float() * (scale if tensor.dim() == 1 else scale[:, None])
    return value.to(tensor.dtype)


def _at(place: str, name: str) -> bool:
    return name.startswith(f"{place}.adapter_")
