"""Card: what a module says of itself, validated on the way in, since cards come from strangers."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from zoo.errors import CardError
from zoo.names import METHOD, TASK, check_start

SCHEMA = 1  # of the cards written now
MAX_DEPTH = 12  # of nested settings and metrics; real ones have three or four
MAX_BYTES = 4 << 20  # of a card file; real ones have a few thousand


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON and file names may hold halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _text(value: str) -> str:
    if not is_text(value):
        raise ValueError(f"holds {value!r}, which is no text")
    return value


def is_finite(value: float) -> bool:
    """Also of a whole number, which may be too large for a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _json(value: Any, depth: int = 0) -> Any:
    """Plain JSON only: what was written can be read again, by anyone."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"holds {value}, which is not a finite number")
        return value
    if isinstance(value, list | tuple):
        return [_json(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"has the key {key!r}, which is not a string")
        return {_text(key): _json(item, depth + 1) for key, item in value.items()}
    raise ValueError(f"holds a {type(value).__name__}, which JSON cannot hold")


def _metrics(value: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Nested names of finite numbers."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping) and depth < MAX_DEPTH:
            found[_text(name)] = _metrics(item, depth + 1)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            if not is_finite(item):
                raise ValueError(f"{name} is not a finite number")
            found[_text(name)] = float(item)
        else:
            raise ValueError(f"{name} is {item!r}, which is neither a number nor names of numbers")
    return found


def _start(value: str | None) -> str | None:
    return None if value is None else check_start(value)


def _created(value: str) -> str:
    datetime.datetime.fromisoformat(value)
    return value


def now() -> str:
    """This moment in UTC, to the second, as cards have it."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


Json = Annotated[dict[str, Any], AfterValidator(_json)]
Metrics = Annotated[dict[str, Any], AfterValidator(_metrics)]
Text = Annotated[str, Field(max_length=2000), AfterValidator(_text)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(strict=True, extra="forbid"))
class Card:
    """What a module says of itself. All of it is plain JSON; types are strict, unknown fields are refused.

    Args:
        task: Source task: lower-case letters, digits, `_`, `.` and `-`.
        method: How the delta is built: "lora", "adapter", "prefix", ...
        settings: All that the method needs to be built again; `places` lists the modules it goes on, in model order.
        backbone: Name of the backbone, for people; the fingerprint decides whether the module fits.
        fingerprint: 64 hex digits of the backbone's weights and vocabulary.
        category: Kind of task: "sentiment", "nli", ...
        metrics: Nested finite numbers, such as {"dev": {"accuracy": 0.9}, "majority": {"accuracy": 0.5}}.
        data: What it was trained on: source, sizes, fields, choices.
        license: Licence of the data, which the merged result inherits.
        seed: Of data and order in training; the draw of the start is stored as tensors.
        start: Name of the shared start in the zoo's `starts/`, or None if it is unknown.
        created: ISO 8601 time.
        steps: Training steps taken.
        max_length: Tokens per text in training.
        provenance: How it came to be: versions, commands, folder of origin.
    Raises:
        CardError: a field is missing, unknown, of a wrong type or outside its range.
    """

    schema: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)] = SCHEMA
    task: Annotated[str, Field(pattern=f"^{TASK}$")]
    category: Text = "unknown"
    method: Annotated[str, Field(pattern=f"^{METHOD}$")]
    settings: Json
    backbone: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(_text)]
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    metrics: Metrics = field(default_factory=dict)
    data: Json = field(default_factory=dict)
    license: Text = "unknown"
    seed: int | None = None
    start: Annotated[str | None, AfterValidator(_start)] = None
    created: Annotated[str, AfterValidator(_created)] = field(default_factory=now)
    steps: Count | None = None
    max_length: Count | None = None
    provenance: Json = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain JSON, in the order of a card file."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def changed(self, **fields: Any) -> Card:
        """A copy with these fields instead, validated again."""
        return Card(**{**self.as_dict(), **fields})


def differing_setting(one: Card, other: Card) -> str | None:
    """The first setting in which two cards differ; None if they do not. {} and None say no more than no entry."""
    ours, theirs = one.settings, other.settings
    names = {**ours, **theirs}
    return next((name for name in names if (ours.get(name) or None) != (theirs.get(name) or None)), None)


def _explaining(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def explained_init(self: Card, *args: Any, **fields: Any) -> None:
        try:
            init(self, *args, **fields)
        except pydantic.ValidationError as error:
            raise _explained(error) from None

    return explained_init


# An error raised inside a validator comes out as pydantic's own, so the store's is put on from outside.
Card.__init__ = _explaining(Card.__init__)  # type: ignore[method-assign]


def parse_card(fields: Mapping[str, Any]) -> Card:
    """Read the fields of a card file, of this schema or an older one.

    Raises:
        CardError: a field is wrong, or the schema is newer than this version knows.
    """
    fields = dict(fields)
    schema = fields.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise CardError(f"the card's schema is {schema!r}, not a whole number", found=f"{SCHEMA} is written now")
    if schema > SCHEMA:
        raise CardError(
            f"the card has schema {schema}, this version reads up to {SCHEMA}", hint="pip install -U transfer-zoo"
        )
    while schema < SCHEMA:
        if schema not in MIGRATIONS:
            raise CardError(f"the card has schema {schema}, which never was", found=f"{SCHEMA} is written now")
        fields = MIGRATIONS[schema](fields)
        schema += 1
        fields["schema"] = schema
    if "self" in fields:  # no field has that name, and Python would take it for the card itself
        raise CardError("the card has a field 'self', which no card has")
    return Card(**fields)


# schema -> what makes its fields those of the next schema. A new schema adds a function here for the one before it, and
# none is ever taken out: cards of every schema there was stay readable.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def read_json(text: str) -> dict[str, Any]:
    """Parse the text of a card file; CardError if it is not one JSON object with each name once."""
    if len(text) > MAX_BYTES:
        raise CardError(f"the card has {len(text):,} characters", found=f"at most {MAX_BYTES:,} are read")
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise CardError(f"the card is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise CardError("the card is not valid JSON", found=str(error)) from None
    if not isinstance(value, dict):
        raise CardError("the card is not a JSON object", found=type(value).__name__)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _explained(error: pydantic.ValidationError) -> CardError:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in problem["loc"]) or "card"
        value = repr(problem.get("input"))
        shown = value if len(value) <= 60 else f"{value[:60]}..."
        said = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {said}" if problem["type"] == "missing" else f"{where}: {said} (is {shown})")
    return CardError("the card is not valid", found="; ".join(lines))
