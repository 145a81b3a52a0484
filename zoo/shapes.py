"""What shapes a method's settings allow, so that a damaged or mislabelled checkpoint is refused on the way in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.errors import CardError, TensorError


class Free(str):
    """A dimension that the settings leave open; the same wherever its name stands at one place."""

    __slots__ = ()


IN, OUT, WIDTH, NARROW = Free("in"), Free("out"), Free("width"), Free("narrow")
Shape = tuple[int | Free, ...]
Rule = Callable[[Mapping[str, Any], str], dict[str, Shape]]


def _lora(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    ranks = settings.get("ranks") or {}
    rank = ranks[place] if place in ranks else settings["rank"]
    return {"lora_A": (rank, IN), "lora_B": (OUT, rank)}


def _sora(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    shapes = _lora(settings, place)
    return {**shapes, "lora_gate": shapes["lora_A"][:1]}


def _adapter(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    return _parallel(settings, place) | {"adapter_down.weight": (settings["bottleneck"], WIDTH)}


def _parallel(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    narrow = settings["bottleneck"]
    return {
        "adapter_down.weight": (narrow, IN),
        "adapter_down.bias": (narrow,),
        "adapter_up.weight": (WIDTH, narrow),
        "adapter_up.bias": (WIDTH,),
    }


def _low_rank(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    rank = settings["rank"]
    return {
        "low_rank_down.left": (NARROW, rank),
        "low_rank_down.right": (rank, WIDTH),
        "low_rank_down.bias": (NARROW,),
        "low_rank_up.left": (WIDTH, rank),
        "low_rank_up.right": (rank, NARROW),
        "low_rank_up.bias": (WIDTH,),
    }


def _compacter(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    n, rank, part_of_width, part_of_narrow = (
        settings["division"],
        settings["rank"],
        Free("width / n"),
        Free("narrow / n"),
    )
    shapes: dict[str, Shape] = {
        "compacter_down.left": (n, part_of_width, rank),
        "compacter_down.right": (n, rank, part_of_narrow),
        "compacter_down.bias": (NARROW,),
        "compacter_up.left": (n, part_of_narrow, rank),
        "compacter_up.right": (n, rank, part_of_width),
        "compacter_up.bias": (WIDTH,),
    }
    if not settings.get("shared_rule", True) or place == settings["places"][0]:
        shapes["compacter_rule"] = (n, n, n)
    return shapes


def _prefix(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    width: int | Free = WIDTH
    heads, head_width = settings.get("heads"), settings.get("head_width")
    if heads is not None and head_width is not None:
        if not (_is_count(heads) and _is_count(head_width)):  # a text times a number would be a long text
            raise TypeError(f"heads {str(heads)[:20]!r}, head_width {str(head_width)[:20]!r}")
        width = heads * head_width
    return {"prefix_key": (settings["length"], width), "prefix_value": (settings["length"], width)}


def _bitfit(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    return {"bitfit_bias": (WIDTH,)}


def _soft_prompt(settings: Mapping[str, Any], place: str) -> dict[str, Shape]:
    return {"prompt_embeddings": (settings["length"], WIDTH)}


# method -> local names and shapes at a place. A method that is not here has its names checked, not its shapes.
RULES: dict[str, Rule] = {
    "lora": _lora,
    "adapter": _adapter,
    "parallel-adapter": _parallel,
    "low-rank-adapter": _low_rank,
    "compacter": _compacter,
    "prefix": _prefix,
    "bitfit": _bitfit,
    "soft-prompt": _soft_prompt,
    "sora": _sora,
}


def expected_shapes(method: str, settings: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Canonical tensor name -> shape, names for what the settings leave open; None for a method without a rule.

    Raises:
        CardError: a setting that decides shapes is missing or of a wrong type.

    >>> expected_shapes("lora", {"rank": 4, "places": ["q"]})
    {'q.lora_A': (4, 'in'), 'q.lora_B': ('out', 4)}
    """
    rule = RULES.get(method)
    if rule is None:
        return None
    return {f"{place}.{name}": shape for place, name, shape in _rows(rule, method, settings)}


def _rows(rule: Rule, method: str, settings: Mapping[str, Any]) -> list[tuple[str, str, Shape]]:
    """(place, local name, shape) of every tensor."""
    rows = []
    for place in places_of(method, settings):
        try:
            local = rule(settings, place)
        except KeyError as error:
            raise CardError(f"the settings of a {method} module lack {error}") from None
        except TypeError as error:
            raise CardError(f"a setting of a {method} module is of a wrong type", found=str(error)) from None
        for name, shape in local.items():
            if any(not isinstance(n, Free) and not _is_count(n) for n in shape):
                raise CardError(f"the settings of a {method} module give {place}.{name} the shape {str(shape)[:80]}")
            rows.append((place, name, shape))
    return rows


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def places_of(method: str, settings: Mapping[str, Any]) -> list[str]:
    """The places on a card; CardError if they are missing, empty or named twice."""
    places = settings.get("places")
    if not isinstance(places, list) or not places or not all(isinstance(place, str) and place for place in places):
        raise CardError(f"the settings of a {method} module have no list of places", found=repr(places)[:80])
    if len(set(places)) < len(places):
        raise CardError(f"the settings of a {method} module name a place twice")
    return places


def check_shapes(method: str, settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    """Hold names and shapes of tensors against the settings.

    Args:
        method: Of the card.
        settings: Of the card.
        shapes: Canonical tensor name -> shape.
    Raises:
        TensorError: a tensor is missing, unexpected or of another shape.
        CardError: the settings do not say what shapes there are.
    """
    if not shapes:
        raise TensorError(f"a {method} module has no tensors")
    rule = RULES.get(method)
    if rule is None:
        _check_names(method, settings, shapes)
        return
    rows = _rows(rule, method, settings)
    expected = {f"{place}.{name}" for place, name, _ in rows}
    missing = sorted(expected.difference(shapes))
    unexpected = sorted(set(shapes) - expected)
    if missing or unexpected:
        parts = [f"missing {missing[0]}" if missing else "", f"unexpected {unexpected[0]}" if unexpected else ""]
        raise TensorError(
            f"the tensors are not those of the {method} settings",
            found=f"{len(missing)} missing, {len(unexpected)} unexpected: {'; '.join(p for p in parts if p)}",
        )
    bound: dict[tuple[str, str], int] = {}
    for place, name, wanted in rows:
        shape = tuple(shapes[f"{place}.{name}"])
        known = tuple(bound.get((place, want), want) if isinstance(want, Free) else want for want in wanted)
        if len(shape) != len(known) or not all(map(_agrees, shape, known)):
            raise TensorError(f"{place}.{name} has the shape {shape}", found=f"the card's settings say {known}")
        bound |= {(place, want): n for n, want in zip(shape, wanted, strict=True) if isinstance(want, Free)}


def _agrees(n: int, wanted: int | Free) -> bool:
    return n > 0 if isinstance(wanted, Free) else n == wanted


def _check_names(method: str, settings: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
    if "places" not in settings:
        return
    places = tuple(f"{place}." for place in places_of(method, settings))
    stray = [name for name in shapes if not name.startswith(places)]
    if stray:
        raise TensorError(f"{stray[0]} is at none of the places on the card", found=f"{len(places)} places")
