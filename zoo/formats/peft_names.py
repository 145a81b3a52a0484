"""Names in PEFT checkpoints: the front that a task class puts before every place, and PEFT's names for tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import FormatError

# What task classes put before the names of their encoder. `transformer.` and `model.` are not here: language
# models carry them too, and there they stay.
TASK_CLASSES = (
    "albert",
    "bert",
    "camembert",
    "convbert",
    "deberta",
    "distilbert",
    "electra",
    "ernie",
    "longformer",
    "mobilebert",
    "mpnet",
    "rembert",
    "roberta",
    "roformer",
    "xlm_roberta",
)

TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "seq2seq": "SEQ_2_SEQ_LM", "causal": "CAUSAL_LM"}


@dataclass(frozen=True)
class Front:
    """Takes `strip` off the front of a place and puts `add` there."""

    strip: str = ""
    add: str = ""

    def __call__(self, place: str) -> str:
        return self.add + place.removeprefix(self.strip)

    @property
    def shown(self) -> str:
        """For the user: "bert." was stripped, "+model." was added, "" is neither."""
        return self.strip or (f"+{self.add}" if self.add else "")


_PLACE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")  # what torch allows as the name of a module, in ASCII


def fit_places(
    folder: Path, found: Sequence[str], places: Sequence[str] | None, what: str = "LoRA"
) -> tuple[Front, list[str]]:
    """How the places of a checkpoint become those of a model.

    Args:
        folder: For messages.
        found: Places as the checkpoint has them.
        places: Names of the model's modules, or None if the model is not known.
        what: That goes onto the places, for messages.
    Returns:
        The change of the front, and a note for the user if there is one.
    Raises:
        FormatError: the model has not all of the places under any front, or one cannot be the name of a module.
    """
    odd = [place for place in found if not _PLACE.fullmatch(place)]
    if odd:
        raise FormatError(f"{folder} has a place that can be no module", found=repr(odd[0][:80]))
    if places is None:
        for name in TASK_CLASSES:
            if all(place.startswith(f"{name}.") for place in found):
                note = f"{name}. was taken off the front of all names: a task class put it there"
                return Front(strip=f"{name}."), [note]
        return Front(), []
    known = set(places)
    for front in _fronts(found, places):
        if all(front(place) in known for place in found):
            if front.strip:
                return front, [f"{front.strip} was taken off the front of all names to fit the backbone"]
            return front, [f"{front.add} was put before all names to fit the backbone"] if front.add else []
    missing = _least_missing(found, places)
    hint = "name the backbone that it was trained on"
    if len(missing) < len(found):
        hint += "; or train it without the places that this one lacks, as those of a head"
    raise FormatError(
        f"the {what} in {folder} does not go on this backbone",
        found=f"{len(missing)} of its {len(found)} places are not there, {missing[0]} for example",
        hint=hint,
    )


def _least_missing(found: Sequence[str], places: Sequence[str]) -> list[str]:
    """The places that are not there under the front by which most of them are."""
    known = set(places)
    fronts = dict.fromkeys(front for place in found for front in _fronts([place], places))
    return min(([place for place in found if front(place) not in known] for front in fronts), key=len)


def _fronts(found: Sequence[str], places: Sequence[str]) -> list[Front]:
    """As it is, then up to three common parts less, then every front that the model's own names have, short first."""
    fronts = [Front()]
    parts = found[0].split(".")
    for count in range(1, min(4, len(parts))):
        strip = ".".join(parts[:count]) + "."
        if all(place.startswith(strip) for place in found):
            fronts.append(Front(strip=strip))
    added = {name[: -len(found[0])] for name in places if name.endswith(f".{found[0]}")}
    return fronts + [Front(add=add) for add in sorted(added, key=lambda add: (len(add), add))]


def task_type(kind: str | None, places: Sequence[str]) -> str:
    """PEFT's name for what the model is used for.

    Args:
        kind: "encoder", "seq2seq", "causal", or None: then it is read off the places. A language model's places have
            its base model's name in front (`model.`, `transformer.h.`, `gpt_neox.`), a bare encoder's have not.

    >>> task_type(None, ["encoder.layer.0.attention.self"]), task_type(None, ["model.layers.0.self_attn"])
    ('FEATURE_EXTRACTION', 'CAUSAL_LM')
    """
    if kind is not None:
        if kind not in TASK_TYPES:
            raise FormatError(f"no kind of backbone named {kind!r}", found=", ".join(TASK_TYPES))
        return TASK_TYPES[kind]
    if is_seq2seq(places):
        return TASK_TYPES["seq2seq"]
    front = places[0].split(".")
    is_language_model = front[0] in ("model", "gpt_neox", "backbone") or front[:2] == ["transformer", "h"]
    return TASK_TYPES["causal" if is_language_model else "encoder"]


def is_seq2seq(places: Sequence[str]) -> bool:
    """True if the places lie in an encoder and in a decoder."""
    stacks = {part for place in places for part in place.split(".") if part in ("encoder", "decoder")}
    return len(stacks) == 2
