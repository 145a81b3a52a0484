"""Which stored modules can be sources for a target, and what each must bring."""

from __future__ import annotations

import difflib
import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.method import DeltaMethod
from transfer.errors import SourceError, TransferError
from zoo import Module, Zoo, ZooView
from zoo.reading import ReadableZoo

logger = logging.getLogger(__name__)

AnyZoo: TypeAlias = ReadableZoo | Iterable[Module] | str | Path | None


def opened(zoo: AnyZoo) -> ReadableZoo | list[Module]:
    """Where source modules are: a zoo, its folder, or modules; None is the user's zoo and the starter zoo."""
    if zoo is None:
        return ZooView([Zoo.default(), Zoo.starter()])
    if isinstance(zoo, str | Path):
        return Zoo(zoo)
    return zoo if isinstance(zoo, ReadableZoo) else list(zoo)


def find_sources(
    zoo: AnyZoo,
    backbone: Backbone,
    method: str | DeltaMethod = "lora",
    exclude: str | Iterable[str] = (),
    force: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Module]:
    """Modules of this method that were trained on this backbone, each id once.

    Args:
        zoo: A `Zoo`, several in one view, a zoo's folder, or any iterable of modules; see `opened`.
        backbone: Its fingerprint decides what fits.
        method: Name of the method, or the method itself.
        exclude: Task names or module ids that are left out.
        force: Take modules of other backbones too, where their tensors have the shapes that this one needs.
        say: Called with a line that names what `force` could not take; None logs it as a warning.
    Raises:
        SourceError: there is none; says what there is instead and the command that builds some.
    """
    name = method if isinstance(method, str) else method.method
    METHODS.resolve(name)
    excluded = {exclude} if isinstance(exclude, str) else set(exclude)
    fingerprint = None if force else backbone.fingerprint
    there = opened(zoo)
    if isinstance(there, ReadableZoo):  # a catalogue finds what fits without reading the cards of the rest
        fitting = there.find(method=name, fingerprint=fingerprint)
    else:
        there = list({module.id: module for module in there}.values())
        fitting = [m for m in there if m.card.method == name and (force or m.fits(backbone.fingerprint))]
    found = [module for module in fitting if module.id not in excluded and module.card.task not in excluded]
    if found and force:
        found, odd = _of_fitting_shapes(found, backbone)
        if odd and found:
            names = ", ".join(module.id for module in odd[:3])
            (say or logger.warning)(
                f"{len(odd)} of {len(odd) + len(found)} modules are left out, since their tensors have not the shapes "
                f"or places of {backbone.name!r}: {names}{', ...' if len(odd) > 3 else ''}"
            )
        elif odd:
            raise SourceError(
                f"no {name!r} module has the shapes and places of backbone {backbone.name!r}",
                found=f"{len(odd)} modules of other backbones, {odd[0].id} of {odd[0].card.backbone!r} for example",
                hint=_build_command(backbone, name),
            )
    if found:
        return found
    if isinstance(there, ReadableZoo):
        counts = there.counts()
    else:
        kinds = Counter((m.card.method, m.card.backbone, m.card.fingerprint) for m in there)
        counts = [(*kind, count) for kind, count in sorted(kinds.items())]
    raise SourceError(
        f"no {name!r} module for backbone {backbone.name!r}",
        found=_instead(counts, len(fitting), backbone, name),
        hint="leave fewer out by exclude; --include-own takes those of the target's own task"
        if fitting
        else _build_command(backbone, name),
    )


def unmatched(zoo: ReadableZoo | Sequence[Module], exclude: str | Iterable[str]) -> list[str]:
    """A line for each name to exclude that is no task and no id of the zoo, with the closest there is.

    Args:
        zoo: All that there is, whatever the method and the backbone.
        exclude: As for `find_sources`.
    """
    names = [exclude] if isinstance(exclude, str) else list(exclude)
    if isinstance(zoo, ReadableZoo):
        unknown = [name for name in names if name not in zoo and not zoo.entries(task=name)]
        known = {word for entry in zoo.entries() for word in (entry.task, entry.id)} if unknown else set()
    else:
        known = {word for module in zoo for word in (module.card.task, module.id)}
        unknown = [name for name in names if name not in known]
    lines = []
    for name in unknown:
        close = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        lines.append(f"nothing is left out by exclude {name!r}: the zoo has no task and no module of that name{hint}")
    return lines


def _of_fitting_shapes(modules: Sequence[Module], backbone: Backbone) -> tuple[list[Module], list[Module]]:
    """Modules that can be put on the backbone, and the rest."""
    fitting: list[Module] = []
    odd: list[Module] = []
    for module in modules:
        fits = module.fits(backbone.fingerprint) or _shapes_fit(module, backbone)
        (fitting if fits else odd).append(module)
    return fitting, odd


def _shapes_fit(module: Module, backbone: Backbone) -> bool:
    try:
        wanted = METHODS.get(module.card.method).from_settings(module.card.settings).shapes(backbone.model)
    except TransferError:  # a place that this backbone lacks, or one that cannot take the method
        return False
    return bool({name: tuple(tensor.shape) for name, tensor in module.tensors().items()} == wanted)


def _build_command(backbone: Backbone, method: str) -> str:
    return (
        f"transfer zoo build --backbone {shlex.quote(backbone.name)} --kind {backbone.kind} "
        f"--methods {method} --tasks DIR --out DIR"
    )


def _instead(there: Sequence[tuple[str, str, str, int]], n_fitting: int, backbone: Backbone, name: str) -> str:
    """What is there, from the number of modules per (method, backbone, fingerprint)."""
    if not there:
        return "an empty zoo"
    if n_fitting:
        return f"{n_fitting} that fit, all of them the target's own or left out by exclude"
    same: Counter[str] = Counter()
    other: Counter[str] = Counter()
    rest = 0
    for method, backbone_name, fingerprint, count in there:
        if fingerprint == backbone.fingerprint:
            same[method] += count
        elif method == name:
            other[backbone_name] += count
        else:
            rest += count
    parts = [f"{count} {method} modules of this backbone" for method, count in sorted(same.items())]
    parts += [f"{count} {name} modules of backbone {other_name!r}" for other_name, count in sorted(other.items())]
    return ", ".join(parts + ([f"{rest} of other methods and backbones"] if rest else []))


def signature_arrays(modules: Sequence[Module], part: str, size: int) -> list[np.ndarray]:
    """One array of the signature of every module.

    Args:
        modules: The sources.
        part: Name of the array, such as "centroid".
        size: What its last dimension must be: the width of the backbone, or 1024 for a sketch.
    Raises:
        SourceError: a module has no such array, or one of another size.
    """
    arrays: list[np.ndarray | None] = [getattr(module.signature, part) for module in modules]
    lacking = [module for module, array in zip(modules, arrays, strict=True) if array is None]
    if lacking:
        raise SourceError(
            f"module {lacking[0].id!r} has no {part.replace('_', ' ')} in its signature",
            found=f"{len(lacking)} of {len(modules)} modules lack it",
            hint=_remedy(lacking[0], part),
        )
    found = [array for array in arrays if array is not None]
    for module, array in zip(modules, found, strict=True):
        if array.shape[-1] != size:
            raise SourceError(
                f"the {part.replace('_', ' ')} of module {module.id!r} is that of another backbone",
                found=f"width {array.shape[-1]}, here {size}",
                hint=f"leave it out: --exclude {module.id}",
            )
    return found


def _remedy(module: Module, part: str) -> str:
    if part == "gradient_sketch" and module.card.start is None and module.card.method != "lora":
        return (
            "the gradient is taken at the start, which is known for modules of transfer zoo build; "
            f"or leave the module out: --exclude {module.id}"
        )
    return (
        f"leave the module out: --exclude {module.id}; or add it anew to another zoo, from the folder that it was "
        f"trained in: transfer zoo add FOLDER --backbone {shlex.quote(module.card.backbone)} --signature "
        f"{module.card.task}, which computes it from the task's examples (transfer zoo build stores it by itself)"
    )


def places_of(modules: Iterable[Module]) -> list[str]:
    """The places that modules are on, each once, as their cards list them."""
    found: dict[str, None] = {}
    for module in modules:
        listed = module.card.settings.get("places")
        found.update(dict.fromkeys(listed if listed is not None else module.tensors(check=False)))
    return list(found)


def start_of(module: Module) -> dict[str, Tensor]:
    """What the module was trained from; SourceError if it is not known."""
    start = module.start()
    if start is None:
        raise SourceError(
            f"the start of module {module.id!r} is not known, so nothing says how far its tensors have moved",
            found="it was not trained by transfer, or was added without its start",
            hint="modules of transfer zoo build have one; --estimator prediction:loss needs none, and for LoRA "
            f"--estimator gradient:first-order neither; or leave the module out: --exclude {module.id}",
        )
    return dict(start)


def check_shapes(module: Module, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse a module whose tensors are not those of the target's start, by name or by shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise SourceError(
            f"module {module.id!r} cannot be compared tensor by tensor: it has other places or sizes",
            found=f"{len(tensors)} tensors on its card's places, {len(expected)} in the start of most modules",
            hint=f"leave it out: --exclude {module.id}; or an estimator of any sizes: --estimator prediction:loss",
        )
