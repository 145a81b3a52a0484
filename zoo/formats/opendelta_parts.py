"""How each method's tensors lie in a checkpoint of OpenDelta."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from zoo.errors import FormatError
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import (
    HEADS,
    Parts,
    check_whole,
    common,
    count,
    group,
    left_out,
    lora_rank,
    lora_settings,
    number,
    renamed,
    where_of,
)
from zoo.formats.peft_names import fit_places
from zoo.shapes import places_of
from zoo.tensors import FileTensors

# Ours -> OpenDelta's, where the names differ; the rest are named alike.
ACTIVATIONS = {"gelu": "gelu_orig", "silu": "swish"}
KNOWN = ("gelu", "gelu_new", "relu", "silu", "swish", "tanh")


class Part(ABC):
    """One method of OpenDelta."""

    method: ClassVar[str]
    pattern: ClassVar[str]
    local: ClassVar[dict[str, str]]  # last parts of names in the file -> local names of ours

    @abstractmethod
    def why_not(self, settings: Mapping[str, Any]) -> str | None:
        """Why OpenDelta would compute something else; None if it would not."""

    @abstractmethod
    def config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The method's own fields of the config."""

    def modified(self, settings: Mapping[str, Any]) -> list[str]:
        """The modules that OpenDelta changes, in full names, so that nothing else matches."""
        return places_of(self.method, settings)

    def to_file(self, settings: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Canonical names -> names in the file."""
        inside = {ours: theirs for theirs, ours in self.local.items()}
        return {
            f"{there}.{self.method}.{inside[local]}": tensors[f"{place}.{local}"]
            for place, there in zip(places_of(self.method, settings), self.modified(settings), strict=True)
            for local in inside
        }

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        file: FileTensors,
        places: Sequence[str] | None,
        attention_places: Sequence[str] | None,
    ) -> Checkpoint:
        """Read anyone's checkpoint of this method."""
        found, rest = group(file, self.pattern, self.local)
        dropped = heads(folder, rest, self.method)
        check_whole(folder, found, list(self.local.values()), self.method)
        front, notes = fit_places(folder, list(found), places, self.method)
        named = {front(place): names for place, names in found.items()}
        kept = list(named) if places is None else [place for place in places if place in named]
        return Checkpoint(
            method=self.method,
            settings=self.settings(folder, config, file, named, kept),
            tensors=renamed(file, named, kept, list(self.local.values())),
            backbone=str(config.get("backbone_checkpoint_name") or ""),
            stripped=front.shown,
            dropped=tuple(dropped),
            notes=(*notes, *left_out(dropped)),
        )

    @abstractmethod
    def settings(
        self, folder: Path, config: Mapping[str, Any], file: FileTensors, named: Parts, places: Sequence[str]
    ) -> dict[str, Any]:
        """Settings as a card has them."""


class Lora(Part):
    """`<place>.lora.lora_A` and `lora_B`, scaled by lora_alpha / lora_r."""

    method = "lora"
    pattern = r"(?P<place>.+)\.lora\.(?P<part>lora_[AB])"
    local: ClassVar[dict[str, str]] = {"lora_A": "lora_A", "lora_B": "lora_B"}

    def why_not(self, settings: Mapping[str, Any]) -> str | None:
        odd = [place for place in places_of("lora", settings) if place.rpartition(".")[2].startswith("c_")]
        return "it puts no LoRA on GPT-2's convolutions" if odd else common(settings)

    def config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        dropout = settings.get("dropout", 0.0)
        return {"lora_r": settings["rank"], "lora_alpha": settings["alpha"], "lora_dropout": dropout}

    def settings(
        self, folder: Path, config: Mapping[str, Any], file: FileTensors, named: Parts, places: Sequence[str]
    ) -> dict[str, Any]:
        shapes, rank = file.shapes(), count(folder, config, "lora_r", 8)
        alpha, dropout = number(folder, config, "lora_alpha", 16), number(folder, config, "lora_dropout", 0.0)
        ranks = {p: lora_rank(folder, p, shapes[named[p]["lora_A"]], shapes[named[p]["lora_B"]]) for p in places}
        # The scale is the config's, whatever rank a tensor has.
        alphas = {place: alpha * own / rank for place, own in ranks.items()}
        return lora_settings(rank, ranks, alphas, float(dropout), places)


class Adapter(Part):
    """`<place>.adapter.modulelist.down_proj` and `up_proj`, after the output of the place."""

    method = "adapter"
    pattern = r"(?P<place>.+)\.adapter\.(?P<part>modulelist\.(?:down|up)_proj\.(?:weight|bias))"
    local: ClassVar[dict[str, str]] = {
        f"modulelist.{side}_proj.{kind}": f"adapter_{side}.{kind}"
        for side in ("down", "up")
        for kind in ("weight", "bias")
    }

    def why_not(self, settings: Mapping[str, Any]) -> str | None:
        if settings.get("reads", "output") != "output":
            return "it has no adapter that reads the sum with the residual"
        activation = settings.get("activation")
        return None if activation in KNOWN else f"it has no activation {activation!r}"

    def config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        activation = settings["activation"]
        return {"bottleneck_dim": settings["bottleneck"], "non_linearity": ACTIVATIONS.get(activation, activation)}

    def settings(
        self, folder: Path, config: Mapping[str, Any], file: FileTensors, named: Parts, places: Sequence[str]
    ) -> dict[str, Any]:
        said = str(config.get("non_linearity", "gelu_new")).lower()
        activation = "gelu" if said == "gelu_orig" else said
        if activation not in KNOWN:
            raise FormatError(
                f"the adapter in {folder} has the activation {said[:40]!r}", found=f"{', '.join(KNOWN)} can be read"
            )
        return {
            "bottleneck": count(folder, config, "bottleneck_dim", 24),
            "activation": activation,
            "where": where_of(places),
            "places": list(places),
        }


def heads(folder: Path, names: Sequence[str], what: str) -> list[str]:
    """Names of the tensors of heads that were trained along; FormatError if one is something else."""
    odd = [name for name in names if not {*HEADS, "lm_head", "cls"} & set(name.split("."))]
    if odd:
        raise FormatError(
            f"{folder} has a tensor that is no part of the {what}",
            found=odd[0][:120],
            hint='train with unfrozen_modules=["deltas"] alone',
        )
    return list(names)


LORA, ADAPTER = Lora(), Adapter()
