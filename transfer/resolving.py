"""From whatever a user has (a folder, a module id, an object) to a delta."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfer.backbones.backbone import Backbone
from transfer.deltas.delta import Delta
from transfer.errors import UnknownNameError
from transfer.tasks.fields import find_fields
from zoo import Card, FingerprintError, Module, PathError, UnknownModuleError


def as_delta(thing: Any, backbone: Backbone) -> Delta | None:
    """The delta of a `Delta`, a stored module, or of what holds one as `.delta`; None stays None.

    Raises:
        FingerprintError: the thing says what it was made for, and that is another backbone.
        DeltaError: it is something else.
    """
    return None if thing is None else Delta.of(thing, backbone)


@dataclass(frozen=True)
class Start:
    """A delta read from a folder or a zoo, with what it says of itself."""

    delta: Delta
    name: str
    fingerprint: str
    backbone: str
    choices: list[str] | None = None
    fields: tuple[str, ...] = ()  # of the inputs it was made with, and the tokens they were cut to
    max_length: int | None = None
    template: str = ""  # that built those inputs from columns
    start: str | None = None  # the shared start behind it, as it is called in a zoo
    start_sha256: str | None = None  # of its tensors, where it is known
    sources: tuple[str, ...] | None = None  # ids of the modules that an initialization scored
    module: Module | None = field(default=None, repr=False)  # what it was read from; it knows its own start

    @property
    def card(self) -> Card | None:
        """Of that module."""
        return None if self.module is None else self.module.card

    def check_fits(self, fingerprint: str, backbone_name: str, force: bool = False) -> None:
        """Refuse a backbone that it was not made for.

        Raises:
            FingerprintError: the fingerprints differ and `force` is False.
        """
        if not force and self.fingerprint != fingerprint:
            raise FingerprintError(
                f"{self.name} was made for another backbone than {backbone_name!r}",
                found=f"made for {self.backbone!r} ({self.fingerprint[:8]}), this one is {fingerprint[:8]}",
                hint=named_backbone(self.backbone, self.fingerprint),
            )


def named_backbone(name: str, fingerprint: str) -> str:
    """What to say to `--backbone` for a backbone of a card, which keeps no path."""
    if name == "embedded" or "/" in name or os.path.isdir(name):
        return f"--backbone {shlex.quote(name)}"
    return f"--backbone FOLDER, or a Hub id: that of {name!r}, fingerprint {fingerprint[:8]}"


def load_start(name: str, zoo: Any) -> Start:
    """What is in a folder (written by `transfer init` or `transfer finetune`), or the module of that id in the zoo.

    Raises:
        UnknownNameError: there is neither.
    """
    from transfer.initialization import Initialization

    folder = Path(name)
    if os.path.isfile(folder / "recipe.json"):  # Path would raise where the name is too long for a file
        found = Initialization.load(folder)
        recipe = found.recipe
        return Start(
            found.delta,
            name,
            recipe["fingerprint"],
            recipe["backbone"],
            recipe["target"].get("choices"),
            tuple(recipe["target"].get("fields", ())),
            recipe.get("max_length"),
            str(recipe["target"].get("template") or ""),
            recipe.get("start"),
            recipe.get("start_sha256"),
            tuple(recipe["scores"]),
        )
    if os.path.isfile(folder / "card.json"):
        return _from_module(Module.load(folder), name)
    try:
        return _from_module(zoo.get(name), name)
    except (UnknownModuleError, PathError) as error:
        raise UnknownNameError(
            f"no folder and no module named {name!r}",
            found="a folder counts when it holds recipe.json or card.json",
            hint=f"transfer zoo add {shlex.quote(name)} --backbone embedded"
            if os.path.isfile(folder / "adapter_config.json")
            else "transfer zoo ls",
        ) from error


def trained_length(starts: Iterable[Start | None]) -> int:
    """Tokens that inputs were cut to in the training of these: the most where they differ, 128 where none says."""
    return max((start.max_length for start in starts if start is not None and start.max_length), default=128)


def trained_fields(starts: Iterable[Start | None], inputs: Sequence[str]) -> tuple[str, ...]:
    """The fields that all of these were trained with, where every input has them; else none.

    What is found in a file depends on its rows: of a single one every `word:` may be a mark.
    """
    known = {start.fields for start in starts if start is not None}
    fields = next(iter(known)) if len(known) == 1 else ()
    return fields if fields and set(fields) <= set(find_fields(inputs, fields)) else ()


def _from_module(module: Module, name: str) -> Start:
    card = module.card
    return Start(
        Delta.from_module(module),
        name,
        card.fingerprint,
        card.backbone,
        card.data.get("choices"),
        tuple(card.data.get("fields") or ()),
        card.max_length,
        str(card.data.get("template") or ""),
        card.start,
        module=module,
    )
