"""What ways of keeping need beside one start: further starts that average well with it, modules that mix into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas.delta import Delta
from transfer.ensembling.compatible import acting_on, acting_settings
from transfer.errors import ConfigError, SourceError
from transfer.similarity.sources import find_sources
from zoo import Module
from zoo.shared_starts import Starts
from zoo.tensors import digest

Point = tuple[Delta, str, Mapping[str, Tensor] | None]  # a start, its name, and the start draw behind it if it is known


def check_share(points: Sequence[Point], backbone: Backbone) -> None:
    """Refuse starts whose tuned modules would not average: other method, settings, places, or start draw.

    Averaged tensor by tensor, the A and B of unrelated draws give a module that is neither, and nothing would show it.

    Raises:
        ConfigError: names two starts, and in what they differ.
    """
    first, first_name, first_draw = points[0]
    ours = _acting(first, backbone)
    for delta, name, draw in points[1:]:
        theirs = _acting(delta, backbone)
        differ = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if differ:
            what = "method" if "method" in differ else differ[0]
            raise _unrelated(first_name, name, what, str(ours.get(what)), str(theirs.get(what)))
        if first_draw is None or draw is None:
            unknown = first_name if first_draw is None else name
            raise _unrelated(first_name, name, "start draw", f"that behind {unknown} is not known", "")
        one, two = digest(dict(first_draw)), digest(dict(draw))
        if one != two:
            raise _unrelated(first_name, name, "start draw", one[:8], two[:8])


def _acting(delta: Delta, backbone: Backbone) -> dict[str, Any]:
    """What decides how the tensors act, with the places and the shapes."""
    shapes = {name: list(tensor.shape) for name, tensor in sorted(delta.tensors.items())}
    return {"method": delta.method.method, **acting_on(delta.method, backbone.model), "shapes": shapes}


def _unrelated(one: str, two: str, what: str, ours: str, theirs: str) -> ConfigError:
    found = f"{_short(ours)} and {_short(theirs)}" if theirs else ours
    return ConfigError(
        f"{one} and {two} cannot be averaged after tuning: they differ in {what}",
        found=found,
        hint="starts that `transfer init` made from one zoo by one method; or a soup of one start, without others",
    )


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def mixing_sources(
    point: Point,
    backbone: Backbone,
    zoo: Any,
    exclude: Iterable[str],
    among: Iterable[str] | None = None,
) -> tuple[list[Module], dict[str, Tensor]]:
    """Modules that can be mixed into a start, and what they were trained from.

    They act as the start does, at the same places, and share a known start: that behind `point` where it is known.

    Args:
        point: The start.
        zoo: Where the modules are, or the modules themselves.
        exclude: Task names and ids that are left out.
        among: Ids that may take part, as those a recipe scored; None is all.
    Raises:
        SourceError: there is none.
    """
    delta, name, draw = point
    modules = find_sources(zoo, backbone, delta.method, exclude)
    if among is not None:
        allowed = set(among)
        modules = [module for module in modules if module.id in allowed]
    ours = acting_on(delta.method, backbone.model)
    alike = [module for module in modules if acting_settings(module) == ours]
    starts = Starts()
    digests = {module.id: starts.of(module) for module in alike}
    known = Counter(found for found in digests.values() if found is not None)
    wanted = digest(dict(draw)) if draw is not None else max(known, key=lambda key: (known[key], key), default=None)
    chosen = [module for module in alike if wanted is not None and digests[module.id] == wanted]
    if not chosen:
        raise SourceError(
            f"no stored module can be mixed into {name}",
            found=f"{len(modules)} modules of the method, {len(alike)} with its settings and places, "
            f"none with {'a known start' if draw is None else 'its start'}",
            hint="--keep interpolate needs no modules",
        )
    start = chosen[0].start()
    assert start is not None
    return sorted(chosen, key=lambda module: module.id), {key: tensor.float() for key, tensor in start.items()}
