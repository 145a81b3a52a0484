"""LoRA in AdapterHub's layout: under the layers' own names; one layer for query, key and value has a LoRA for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zoo.errors import FormatError
from zoo.formats.adapterhub_bottleneck import left_out_layers
from zoo.formats.adapterhub_places import FAMILIES, MATRICES, Family
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import Parts, check_whole, common, count, lora_rank, lora_settings, number, strings
from zoo.formats.peft_names import fit_places
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

LOCAL = {"lora_A": "lora_A", "lora_B": "lora_B"}

_OTHERS = {
    "use_dora": "DoRA, whose magnitudes a plain LoRA lacks",
    "use_gating": "a gate",
    "vera_d": "VeRA, whose A and B are random and rescaled",
    "vera_b": "VeRA, whose A and B are random and rescaled",
}
MERGE = "a backbone of its own: model.merge_adapter(name), then model.save_pretrained(folder)"


def why_not(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str | None:
    """Why the package cannot hold such a module; None if it can."""
    try:
        _plan(settings, tensors)
    except FormatError as error:
        return str(error)
    return None


def config(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Any], Family, int]:
    """The fields of `LoRAConfig`, the family of the model, and the width of the first layer."""
    plan = _plan(settings, tensors)
    keys, alpha = set(plan.named.values()), round(plan.scale * plan.rank, 9)
    used = list(plan.groups) if "fused" in keys else [key for key in MATRICES if key in keys]
    fields = {
        "architecture": "lora",
        "selfattn_lora": bool(used),
        "intermediate_lora": "intermediate" in keys,
        "output_lora": "output" in keys,
        "attn_matrices": used,
        "r": plan.rank,
        "alpha": int(alpha) if alpha == int(alpha) else alpha,
        "dropout": settings.get("dropout", 0.0),
        "composition_mode": "add",
        "init_weights": "lora",  # B is zero where the file has no tensors
        "use_gating": False,
        "use_dora": False,
        "leave_out": left_out_layers(_block(plan.family, place) for place in plan.named),
    }
    return fields, plan.family, tensors[f"{next(iter(plan.named))}.lora_A"].shape[1]


def to_file(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Canonical names -> names in the file."""
    plan, found = _plan(settings, tensors), {}
    for place, key in plan.named.items():
        a, b = tensors[f"{place}.lora_A"], tensors[f"{place}.lora_B"]
        if key == "fused" and plan.blocked:
            thirds = b.chunk(3)
            blocks = [
                thirds[MATRICES.index(group)][:, i * plan.rank : (i + 1) * plan.rank]
                for i, group in enumerate(plan.groups)
            ]
            b = torch.cat(blocks)
        elif key == "fused":  # the same A for query, key and value
            a = a.repeat(3, 1)
        found[f"{place}.loras.{name}.lora_A"], found[f"{place}.loras.{name}.lora_B"] = a, b
    return found


@dataclass(frozen=True)
class _Plan:
    """How a LoRA is written.

    Args:
        family: Of the model.
        named: place -> what it is there.
        rank: In the file, at all places.
        scale: alpha / rank, at all places.
        groups: Those of query, key and value that a fused layer has a LoRA for.
        blocked: Columns of B on a fused layer belong to one group each, so that A need not be repeated.
    """

    family: Family
    named: Mapping[str, str]
    rank: int
    scale: float
    groups: tuple[str, ...] = MATRICES
    blocked: bool = False


def _plan(settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> _Plan:
    """FormatError, which gives the reason alone, if there is no way."""
    family, named = _chosen(settings)
    own, own_alpha = settings.get("ranks") or {}, settings.get("alphas") or {}
    ranks = {place: own.get(place, settings["rank"]) for place in named}
    scales = [own_alpha.get(place, settings["alpha"]) / rank for place, rank in ranks.items()]
    one_scale = all(math.isclose(scale, scales[0]) for scale in scales)
    fused = [place for place, key in named.items() if key == "fused"]
    groups = _groups({place: tensors[f"{place}.lora_B"] for place in fused}) if fused else None
    for chosen in filter(None, (groups, MATRICES)):
        blocked = chosen is groups
        narrow = {rank // len(chosen) if blocked and place in fused else rank for place, rank in ranks.items()}
        if one_scale and len(narrow) == 1:
            return _Plan(family, named, narrow.pop(), scales[0], chosen, blocked)
    raise FormatError(common(settings) or "its places have ranks of their own")


def _groups(parts: Mapping[str, torch.Tensor]) -> tuple[str, ...] | None:
    """Which of query, key and value the columns of all B belong to, in order and as many each; None if to several.

    Such LoRAs come from this format, and go back as they were. The others take all three.

    Args:
        parts: place -> B, (3 * width, rank).
    """
    touched = {  # (3, rank): whether a column of B acts on the third
        place: torch.stack([third.ne(0).any(0) for third in b.chunk(3)]) for place, b in parts.items()
    }
    used = [third for third in range(3) if any(bool(acts[third].any()) for acts in touched.values())]
    for acts in touched.values():
        if not used or acts.shape[1] % len(used):
            return None
        narrow = acts.shape[1] // len(used)
        for position, third in enumerate(used):
            acts[third, position * narrow : (position + 1) * narrow] = False
        if bool(acts.any()):
            return None
    return tuple(MATRICES[third] for third in used)


def _chosen(settings: Mapping[str, Any]) -> tuple[Family, dict[str, str]]:
    """The first family that has all the places, and place -> what it is there."""
    places, best = places_of("lora", settings), dict[str, str]()
    for family in FAMILIES:
        named = {place: key for place in places if (key := family.matrix(place)) is not None}
        if len(named) == len(places):
            return family, named
        best = max(best, named, key=len)
    raise FormatError(f"it has no LoRA at {next(place for place in places if place not in best)!r}")


def _block(family: Family, place: str) -> str:
    ends = [family.fused or "", *(end for ends in family.lora.values() for end in ends)]
    found = family.split(place, filter(None, ends))
    assert found is not None
    return found[0]


def read(
    folder: Path,
    config: Mapping[str, Any],
    family: Family | None,
    found: Parts,
    file: FileTensors,
    places: Sequence[str] | None,
    backbone: str,
    old_scaling: bool,
) -> Checkpoint:
    """Read anyone's LoRA. One that is on a fused layer for some of query, key and value is zero for the others.

    Args:
        found: Place -> local name -> name in the file.
        config: The LoRA's own.
        family: Of the model; None if it is not known, and then no layer is fused.
        old_scaling: It was trained by a version that scaled by 1, whatever alpha says.
    """
    for name, what in _OTHERS.items():
        if config.get(name):
            raise FormatError(f"{folder} is not a plain LoRA", found=f"{name}: {what}", hint=MERGE)
    if (mode := config.get("composition_mode", "add")) != "add":
        raise FormatError(
            f"{folder} is not a plain LoRA",
            found=f"composition_mode {mode!r}: IA3, which multiplies activations, and no method here does",
            hint=MERGE,
        )
    check_whole(folder, found, list(LOCAL.values()), "LoRA")
    front, notes = fit_places(folder, list(found), places)
    named = {front(place): names for place, names in found.items()}
    kept = list(named) if places is None else [place for place in places if place in named]
    asked = strings(folder, config, "attn_matrices")
    matrices = [position for position, key in enumerate(MATRICES) if key in asked]
    rank = count(folder, config, "r", 8)
    alpha = rank if old_scaling else float(number(folder, config, "alpha", 8))
    if old_scaling:
        notes.append("versions before 1.1 scaled by 1, whatever alpha said: it is read so")
    shapes, ranks, alphas, tensors = file.shapes(), dict[str, int](), dict[str, float](), {}
    for place in kept:
        a, b = named[place]["lora_A"], named[place]["lora_B"]
        if family is not None and family.matrix(place) == "fused":
            groups = len(matrices)
            wide, tall = shapes[a], shapes[b]
            if not groups or len(wide) != 2 or len(tall) != 2 or wide[0] != tall[1] * groups or tall[0] % groups:
                raise FormatError(
                    f"{place} in {folder} is no LoRA of query, key and value",
                    found=f"A {wide}, B {tall}, for {groups} of the three",
                )
            ranks[place], alphas[place] = wide[0], alpha * wide[0] / rank
            tensors[f"{place}.lora_A"] = partial(file.__getitem__, a)
            tensors[f"{place}.lora_B"] = partial(_spread, file, b, tuple(matrices))
        else:
            ranks[place] = lora_rank(folder, place, shapes[a], shapes[b])
            alphas[place] = alpha * ranks[place] / rank  # the scale is the config's, whatever rank a tensor has
            tensors[f"{place}.lora_A"] = partial(file.__getitem__, a)
            tensors[f"{place}.lora_B"] = partial(file.__getitem__, b)
    return Checkpoint(
        method="lora",
        settings=lora_settings(rank, ranks, alphas, float(number(folder, config, "dropout", 0.0)), kept),
        tensors=RenamedTensors(tensors),
        backbone=backbone,
        stripped=front.shown,
        notes=tuple(notes),
    )


def _spread(file: FileTensors, name: str, matrices: tuple[int, ...]) -> torch.Tensor:
    """B for the whole layer: (groups * width, rank) to (3 * width, groups * rank), each group in rows and columns of
    its own."""
    blocks = file[name].chunk(len(matrices))
    width, rank = blocks[0].shape
    whole = blocks[0].new_zeros(3 * width, len(matrices) * rank)
    for position, (third, block) in enumerate(zip(matrices, blocks, strict=True)):
        whole[third * width : (third + 1) * width, position * rank : (position + 1) * rank] = block
    return whole
