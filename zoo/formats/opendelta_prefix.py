"""Prefixes of OpenDelta: keys and values by place, or one network that they all come from.

The place is the attention module; on BERT and RoBERTa it is the one around it. OpenDelta leaves the positions of the
text as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn import functional

from zoo.errors import FormatError
from zoo.formats.checkpoint import Checkpoint
from zoo.formats.layout import Parts, check_whole, count, group, left_out, strings
from zoo.formats.opendelta_parts import Part, heads
from zoo.formats.peft_names import fit_places
from zoo.shapes import places_of
from zoo.tensors import FileTensors, RenamedTensors

NETWORK = tuple(f"control_trans.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias"))


class Prefix(Part):
    """`<place>.prefix.past_key` and `past_value`, or `<first place>.reparams.*`."""

    method = "prefix"
    pattern = r"(?P<place>.+)\.prefix\.(?P<part>past_(?:key|value))"
    local: ClassVar[dict[str, str]] = {"past_key": "prefix_key", "past_value": "prefix_value"}

    def why_not(self, settings: Mapping[str, Any]) -> str | None:
        if _on_t5(places_of("prefix", settings)):
            return "on T5 it gives its prefix relative positions, ours has none"
        if settings.get("position_shift") is not False:
            return "ours shifts the positions of the text, OpenDelta's prefix leaves them"
        return None

    def config(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"prefix_token_num": settings["length"], "reparameterize": False}

    def modified(self, settings: Mapping[str, Any]) -> list[str]:
        return [_around(place) for place in places_of("prefix", settings)]

    def read(
        self,
        folder: Path,
        config: Mapping[str, Any],
        file: FileTensors,
        places: Sequence[str] | None,
        attention_places: Sequence[str] | None,
    ) -> Checkpoint:
        if not attention_places:
            raise FormatError(
                f"the prefix in {folder} needs the attention modules of its backbone",
                hint="Prefix().places(backbone.model)",
            )
        if _on_t5(attention_places):
            raise FormatError(
                f"the prefix in {folder} is on T5, where OpenDelta gives it relative positions; ours has none",
                hint="transfer finetune --target TASK --method prefix",
            )
        if any(".reparams." in name for name in file):
            chosen, tensors, rest = _folded(folder, config, file, attention_places)
            front, notes = "", ["keys and values were computed from the network that they were trained through"]
        else:
            found, rest = group(file, self.pattern, self.local)
            check_whole(folder, found, list(self.local.values()), "prefix")
            # The place may be the attention or the module around it; the front is fitted to both.
            attention = {name: place for place in attention_places for name in (_around(place), place)}
            fitted, notes = fit_places(folder, list(found), list(attention), "prefix")
            named = {attention[fitted(place)]: names for place, names in found.items()}
            chosen, front = [place for place in attention_places if place in named], fitted.shown
            tensors = {
                f"{place}.{local}": partial(file.__getitem__, inside)
                for place in chosen
                for local, inside in named[place].items()
            }
        dropped = heads(folder, rest, "prefix")
        return Checkpoint(
            method="prefix",
            settings=self.settings(folder, config, file, {}, chosen),
            tensors=RenamedTensors(tensors),
            backbone=str(config.get("backbone_checkpoint_name") or ""),
            stripped=front,
            dropped=tuple(dropped),
            notes=(*notes, *left_out(dropped)),
        )

    def settings(
        self, folder: Path, config: Mapping[str, Any], file: FileTensors, named: Parts, places: Sequence[str]
    ) -> dict[str, Any]:
        return {
            "length": count(folder, config, "prefix_token_num", 6),
            "position_shift": False,
            "reparameterisation": None,
            "where": ["attn"],
            "places": list(places),
        }


def _around(place: str) -> str:
    return place.removesuffix(".self")


def _on_t5(places: Sequence[str]) -> bool:
    return any("SelfAttention" in place.split(".") for place in places)


def _folded(
    folder: Path, config: Mapping[str, Any], file: FileTensors, attention_places: Sequence[str]
) -> tuple[list[str], dict[str, Any], list[str]]:
    """(places, what makes each tensor, names of other tensors) of a prefix behind a network.

    The network makes (length, places * 2 * width) at once: for each place in model order its key, then its value.
    """
    asked = strings(folder, config, "modified_modules")
    chosen = [
        place
        for place in attention_places
        if config.get("common_structure")
        or any(f".{name}".endswith(f".{end}") for end in asked for name in (place, _around(place)))
    ]
    found, rest = group(file, r"(?P<place>.+)\.reparams\.(?P<part>.+)", {n: n for n in ("wte.weight", *NETWORK)})
    check_whole(folder, found, ("wte.weight", *NETWORK), "network behind a prefix")
    names = next(iter(found.values()))
    length, out = count(folder, config, "prefix_token_num", 6), file.shapes()[names["control_trans.2.bias"]][-1:]
    if len(found) > 1 or not chosen or not out or out[0] % (2 * len(chosen)):
        raise FormatError(
            f"the prefix in {folder} does not go on this backbone",
            found=f"its network makes {out} values, there are {len(chosen)} attention modules",
        )

    def slot(index: int) -> torch.Tensor:
        wte, *layers = (file[names[name]].float() for name in ("wte.weight", *NETWORK))
        try:
            narrow = torch.tanh(functional.linear(wte, layers[0], layers[1]))
            return functional.linear(narrow, layers[2], layers[3]).view(length, 2 * len(chosen), -1)[:, index]
        except RuntimeError as error:
            raise FormatError(f"the network in {folder} does not fit together", found=str(error)) from None

    parts = [f"{place}.{local}" for place in chosen for local in ("prefix_key", "prefix_value")]
    return chosen, {name: partial(slot, index) for index, name in enumerate(parts)}, rest


PREFIX = Prefix()
