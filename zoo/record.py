"""The file `card.json` of a module folder: the card, and what the store adds to it about the files beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.card import MAX_BYTES, Card, parse_card, read_json
from zoo.errors import CardError, UnknownModuleError
from zoo.files import plain_file
from zoo.names import check_file, check_id, make_id

FILE = "card.json"
SIGNATURE = "signature.safetensors"
START = "start.safetensors"  # only in folders that were exported

_HASH = re.compile(r"[0-9a-f]{64}")
_OWN = ("id", "files", "holds", "task_signature")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A card with its module's id and files.

    Args:
        id: Of the module.
        card: Of the module.
        files: Name -> sha256 of every other file in the folder.
        holds: Names of the signature's arrays.
        task_signature: sha256 of the file in `signatures/` that holds the task's part, or None where the module's own
            signature file has it, or nothing has.
    """

    id: str
    card: Card
    files: Mapping[str, str] = field(default_factory=dict)
    holds: tuple[str, ...] = ()
    task_signature: str | None = None

    def to_text(self) -> str:
        """The text of `card.json`."""
        own = {
            "id": self.id,
            "files": dict(sorted(self.files.items())),
            "holds": list(self.holds),
            "task_signature": self.task_signature,
        }
        return json.dumps({**self.card.as_dict(), **own}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @classmethod
    def from_text(cls, text: str, module_id: str | None = None) -> Record:
        """Read the text of `card.json`.

        Args:
            text: Its content.
            module_id: What the id must be (the folder's name), or None to believe the card.
        Raises:
            CardError: the card, or what the store keeps about the files, is not valid.
        """
        fields = read_json(text)
        own = {name: fields.pop(name, None) for name in _OWN}
        card = parse_card(fields)
        found = own["id"] if module_id is None else module_id
        if own["id"] != found or not isinstance(found, str):
            raise CardError(f"the card in the folder of {module_id!r} is that of {own['id']!r}")
        if check_id(found) != make_id(card.task, card.method, found[-8:]):
            raise CardError(f"the card of {found!r} is of task {card.task!r} and method {card.method!r}")
        return cls(
            id=found,
            card=card,
            files=_files(own["files"]),
            holds=_holds(own["holds"]),
            task_signature=None if own["task_signature"] is None else _hash(own["task_signature"]),
        )

    @classmethod
    def from_folder(cls, folder: Path, module_id: str | None = None) -> Record:
        """Read the `card.json` in a folder.

        Raises:
            UnknownModuleError: there is none.
            PathError: it is a link.
            CardError: it is not valid.
        """
        try:
            path = plain_file(folder / FILE)
            if path.stat().st_size > MAX_BYTES:
                raise CardError(f"{path} has more than {MAX_BYTES:,} bytes")
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise UnknownModuleError(f"no module in {folder}", found=f"there is no {FILE}") from None
        except UnicodeDecodeError as error:
            raise CardError(f"{folder / FILE} is not UTF-8", found=str(error)) from None
        try:
            return cls.from_text(text, module_id)
        except CardError as error:
            raise CardError(f"{folder / FILE}: {error.asked}", found=error.found, hint=error.hint) from None


def _hash(value: Any) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise CardError(f"{value!r} on a card is not a sha256")
    return value


def _files(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise CardError("a card names no files", found=repr(value)[:80])
    return {check_file(name): _hash(digest) for name, digest in value.items()}


def _holds(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CardError("what a signature holds is not a list of names", found=repr(value)[:80])
    return tuple(value)
