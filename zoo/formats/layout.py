"""What the readers of other libraries' checkpoints share: tensors by place, and numbers of configs from strangers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from zoo.card import MAX_BYTES, is_finite, read_json
from zoo.errors import CardError, FormatError
from zoo.files import followed_file
from zoo.tensors import FileTensors, RenamedTensors

HEADS = ("classifier", "score", "qa_outputs", "pooler")  # no answer passes them, whichever backbone it is

Parts = dict[str, dict[str, str]]  # place -> local name of ours -> name in the file


def read_config(path: Path) -> dict[str, Any]:
    """A config file as it stands; FormatError if it cannot be read."""
    try:
        file = followed_file(path)
        if file.stat().st_size > MAX_BYTES:
            raise CardError(f"it has more than {MAX_BYTES:,} bytes")
        return read_json(file.read_text(encoding="utf-8"))
    except (CardError, UnicodeDecodeError, FileNotFoundError) as error:
        raise FormatError(f"{path} cannot be read", found=str(error)) from None


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a config file that `read_config` reads."""
    path.write_text(json.dumps(config, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def group(names: Iterable[str], pattern: str, local: Mapping[str, str]) -> tuple[Parts, list[str]]:
    """Sort names of tensors by place.

    Args:
        names: In the file.
        pattern: With the groups `place` and `part`, for a whole name.
        local: part -> local name of ours.
    Returns:
        (place -> local name -> name in the file, names that the pattern does not fit).

    >>> group(["x.q.lora.lora_A", "head.bias"], r"(?P<place>.+)\\.lora\\.(?P<part>lora_[AB])", {"lora_A": "lora_A"})
    ({'x.q': {'lora_A': 'x.q.lora.lora_A'}}, ['head.bias'])
    """
    found: Parts = {}
    rest = []
    for name in names:
        match = re.fullmatch(pattern, name)
        if match and match["part"] in local:
            found.setdefault(match["place"], {})[local[match["part"]]] = name
        else:
            rest.append(name)
    return found, rest


def check_whole(folder: Path, parts: Parts, local: Sequence[str], what: str) -> None:
    """FormatError unless there are places, and every one has all of its tensors."""
    if not parts:
        raise FormatError(f"{folder} has no tensors of a {what} in it")
    for place, there in parts.items():
        missing = [name for name in local if name not in there]
        if missing:
            raise FormatError(f"{folder} has no {missing[0]} at {place}", found=", ".join(there))


def renamed(file: FileTensors, parts: Parts, places: Sequence[str], local: Sequence[str]) -> RenamedTensors:
    """Canonical name -> tensor, each read when it is asked for."""
    names = {f"{place}.{name}": parts[place][name] for place in places for name in local}
    return RenamedTensors({name: partial(file.__getitem__, inside) for name, inside in names.items()})


def shape_in(file: FileTensors, name: str) -> tuple[int, ...]:
    """The shape of a tensor that a file must have; FormatError if it has none of that name."""
    if name not in file:
        raise FormatError(f"{file.path} has no {name} in it", found=", ".join(list(file)[:3]))
    return file.shapes()[name]


def where_of(places: Iterable[str]) -> list[str]:
    """`where` for a card: the last parts of the places."""
    return sorted({place.rpartition(".")[2] for place in places})


def lora_settings(
    rank: int, ranks: Mapping[str, int], alphas: Mapping[str, float], dropout: float, places: Sequence[str]
) -> dict[str, Any]:
    """Settings as a card has them; exceptions are named only where there are any."""
    # The config's own rank is a default that perhaps no place has, after a rank pattern for example.
    common_rank = rank if rank in ranks.values() else next(iter(ranks.values()))
    common_alpha = max(set(alphas.values()), key=list(alphas.values()).count)
    settings: dict[str, Any] = {
        "rank": common_rank,
        "alpha": int(common_alpha) if common_alpha == int(common_alpha) else common_alpha,
        "dropout": dropout,
        "where": where_of(places),
        "places": list(places),
    }
    if other := {place: own for place, own in ranks.items() if own != common_rank}:
        settings["ranks"] = other
    if other_alphas := {place: own for place, own in alphas.items() if own != common_alpha}:
        settings["alphas"] = other_alphas
    return settings


def lora_rank(folder: Path, place: str, a: Sequence[int], b: Sequence[int]) -> int:
    """The rank at a place, from the shapes of A and B; FormatError unless they are those of a linear layer."""
    if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
        raise FormatError(f"{place} in {folder} is no LoRA of a linear layer", found=f"A {tuple(a)}, B {tuple(b)}")
    return a[0]


def number(folder: Path, config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A finite number of a config; FormatError if it is something else."""
    value = config.get(name, default)
    if not is_number(value):
        raise FormatError(f"{name} in the config of {folder} is {str(value)[:40]!r}, not a number")
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number, not a whole one that is too large to be one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and is_finite(value)


def count(folder: Path, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A whole number of at least 1; FormatError if it is something else."""
    value = config.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FormatError(f"{name} in the config of {folder} is {value!r}, not a count")
    return value


def strings(folder: Path, config: Mapping[str, Any], name: str) -> list[str]:
    """A list of strings of a config, empty if it is not there; FormatError if it is something else."""
    value = config.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(f"{name} in the config of {folder} is {str(value)[:80]!r}, not a list of names")
    return value


def left_out(dropped: Sequence[str]) -> list[str]:
    """A note for the user, if tensors were left out."""
    if not dropped:
        return []
    return [f"{len(dropped)} tensors are no part of the delta and were left out: {', '.join(dropped[:3])}"]


def common(settings: Mapping[str, Any]) -> str | None:
    """Why a LoRA has not one rank and one alpha for all places; None if it has."""
    for name in ("ranks", "alphas"):
        if settings.get(name):
            return f"it has {name} of their own at {len(settings[name])} places"
    return None
