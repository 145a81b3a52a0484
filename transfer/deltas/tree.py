"""The tree of a model's modules with what is counted in it: a picture of one moment that holds no tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from transfer.deltas.attached import Attachment
from transfer.deltas.dotted import joined
from transfer.deltas.modules import features, inner_model, named_modules
from transfer.deltas.site import Site

if TYPE_CHECKING:
    from transfer.deltas.common_structure import Common
    from transfer.deltas.method import DeltaMethod

CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they hold modules and compute nothing


class Parameter(NamedTuple):
    """One parameter of a module.

    Args:
        name: Its name in the module: `weight`.
        shape: Its sizes.
        trainable: Whether it asks for gradients.
        tied: Full name of the parameter that is the same tensor and is counted, "" where this one is.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool
    tied: str = ""

    @property
    def size(self) -> int:
        """Number of values; 0 where they are counted under the other name."""
        return 0 if self.tied else prod(self.shape)


class Laid(NamedTuple):
    """What one delta has at one place; `tensors` are local name -> shape, `trained` is how many values learn."""

    method: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    trained: int

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(prod(shape) for _, shape in self.tensors)


class Counts(NamedTuple):
    """Numbers of parameters; `trained` are `trainable` and what of `delta` learns."""

    frozen: int = 0
    trainable: int = 0
    delta: int = 0
    trained: int = 0

    @property
    def backbone(self) -> int:
        """Those that are no delta's."""
        return self.frozen + self.trainable

    @property
    def everything(self) -> int:
        """All there are."""
        return self.frozen + self.trainable + self.delta

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """The sums."""
        columns = list(zip(*parts, strict=True))
        return cls(*map(sum, columns)) if columns else cls()


@dataclass(frozen=True)
class Node:
    """A module.

    Args:
        name: Its full name; "" for the model itself.
        label: Its name in the module that holds it.
        kind: Name of its class.
        sizes: `(in, out)` of a linear layer, else the shape of its weight; () without one.
        parameters: Its own, without those of the modules inside.
        deltas: What sits on it, the first attached first.
        common: Its common names.
        children: The modules inside.
        container: True for a list that computes nothing.
    """

    name: str
    label: str
    kind: str
    sizes: tuple[int, ...]
    parameters: tuple[Parameter, ...]
    deltas: tuple[Laid, ...]
    common: tuple[Common, ...]
    children: tuple[Node, ...]
    container: bool = False

    @cached_property
    def own(self) -> Counts:
        """Without the modules inside."""
        trainable = sum(p.size for p in self.parameters if p.trainable)
        frozen = sum(p.size for p in self.parameters if not p.trainable)
        return Counts(
            frozen, trainable, sum(d.size for d in self.deltas), trainable + sum(d.trained for d in self.deltas)
        )

    @cached_property
    def counts(self) -> Counts:
        """With the modules inside."""
        return Counts.total([self.own, *(child.counts for child in self.children)])

    @cached_property
    def alike(self) -> tuple[object, ...]:
        """Equal for modules that differ in nothing but their names and numbers."""
        return (
            self.kind,
            self.sizes,
            tuple((p.name, p.shape, p.trainable, p.tied != "") for p in self.parameters),
            self.deltas,
            tuple(sorted({c.part for c in self.common})),
            tuple((child.label, child.alike) for child in self.children),
        )

    def walk(self) -> Iterator[Node]:
        """Itself and all inside it, in model order."""
        yield self
        for child in self.children:
            yield from child.walk()


def plan(method: DeltaMethod, model: nn.Module) -> dict[str, Laid]:
    """Place -> what `method` would put there. Nothing is attached or drawn.

    Raises:
        DeltaError: as `method.places`, and where a place cannot take the method.
    """
    from transfer.deltas.fused import fused_at, rows_of_parts  # which knows common names, and they know trees

    modules, method = named_modules(model), method.fixed(inner_model(model))
    shapes = method.shapes_by_place(model)
    found = {place: laid(method, place, modules[place], model, shapes[place]) for place in shapes}
    together = fused_at(inner_model(model)) if method.parts else {}
    for place, parts in method.parts.items():
        rows = rows_of_parts(modules, place, parts, together.get(place, ()))
        idle = sum(prod(shapes[place][name]) * int((~rows).sum()) // len(rows) for name in method.by_output)
        found[place] = found[place]._replace(trained=found[place].trained - idle)
    return found


def laid(
    method: DeltaMethod,
    place: str,
    module: nn.Module,
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Laid:
    """What `method` would put on one module; tensors of these shapes, or of those that the module alone tells.

    Raises:
        DeltaError: it cannot go there.
    """
    shapes = method.local_shapes(place, module) if shapes is None else shapes
    # Some methods know only here that a place is none; tensors on `meta` cost nothing.
    method.site(place, {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, model)
    return Laid(method.method, tuple(shapes.items()), sum(map(prod, shapes.values())))


def tree_of(model: nn.Module, common: Iterable[Common], planned: Mapping[str, Laid] | None = None) -> Node:
    """The tree of a model as it is now.

    Args:
        model: Any model or a `Backbone`, on any device, also on `meta`.
        common: Its common names.
        planned: Place -> a delta that is not attached but shall be shown as if it were.
    """
    deltas = _attached(model)
    for place, laid in (planned or {}).items():
        deltas.setdefault(place, []).append(laid)
    by_place: dict[str, list[Common]] = {}
    for spelled in common:
        by_place.setdefault(spelled.place, []).append(spelled)
    modules = named_modules(model)
    inside: dict[str, list[str]] = {}
    for name in modules:
        if name:
            inside.setdefault(name.rpartition(".")[0], []).append(name)
    counted: dict[int, str] = {}
    own = {name: tuple(_parameters(name, module, counted)) for name, module in modules.items()}

    def node(name: str) -> Node:
        module = modules[name]
        return Node(
            name,
            name.rpartition(".")[2],
            type(module).__name__,
            _sizes(module),
            own[name],
            tuple(deltas.get(name, ())),
            tuple(by_place.get(name, ())),
            tuple(node(child) for child in inside.get(name, ())),
            isinstance(module, CONTAINERS),
        )

    return node("")


def _parameters(name: str, module: nn.Module, counted: dict[int, str]) -> Iterator[Parameter]:
    for local, parameter in module._parameters.items():
        if parameter is not None:
            full = joined(name, local)
            first = counted.setdefault(id(parameter), full)
            shape = (0,) if is_lazy(parameter) else tuple(parameter.shape)  # sizes that the first forward will tell
            yield Parameter(local, shape, parameter.requires_grad, "" if first == full else first)


def _sizes(module: nn.Module) -> tuple[int, ...]:
    linear = features(module)
    if linear is not None:
        return linear
    weight = module._parameters.get("weight")
    return () if weight is None or is_lazy(weight) else tuple(weight.shape)


def _attached(model: nn.Module) -> dict[str, list[Laid]]:
    """Place -> what sits there; a delta is a child of its host, which may stand inside the model."""
    found: dict[str, list[Laid]] = {}
    for name, module in inner_model(model).named_modules():
        if not isinstance(module, Attachment):
            continue
        host = name.rpartition(".")[0]
        method = getattr(getattr(module, "method", None), "method", type(module).__name__)
        seen: set[int] = set()  # what several sites share counts where it stands first
        for site in (part for part in module.modules() if isinstance(part, Site)):
            own = [(local, parameter) for local, parameter in site.named_parameters() if id(parameter) not in seen]
            seen |= {id(parameter) for _, parameter in own}
            if own:
                shapes = tuple((local, tuple(parameter.shape)) for local, parameter in own)
                trained = sum(site.n_trained(local) for local, parameter in own if parameter.requires_grad)
                place = joined(host, site.place) if host else site.place
                found.setdefault(place, []).append(Laid(method, shapes, trained))
    return found
