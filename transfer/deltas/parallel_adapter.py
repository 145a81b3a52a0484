"""Parallel adapter: a bottleneck that reads what a sub-layer reads and adds to what it gives.

Source: He et al. 2022, arxiv.org/abs/2110.04366, section 3.2 and table 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from transfer.deltas.adapter import AdapterSite, adapter_shapes, fill_adapter
from transfer.deltas.addressing import Names, check_places
from transfer.deltas.bottleneck import HOULSBY, BottleneckMethod
from transfer.deltas.dotted import shared_parts
from transfer.deltas.method import as_names
from transfer.deltas.modules import features, linear_features, named_modules
from transfer.deltas.site import Site
from transfer.errors import ConfigError, DeltaError


@dataclass(frozen=True, kw_only=True)
class ParallelAdapter(BottleneckMethod):
    """h + scale * up(act(down(x))), where x goes into one module and h comes out of another, behind it in the block.

    By default x is the input of the attention and h the output of its projection, and the same over the feed-forward
    part. Starts as the bare backbone: `up` and the biases are zero.

    Args:
        bottleneck: Width of the narrow layer, at least 1.
        scale: Of what is added.
        where: Where the outputs are changed.
        inputs: For each name in `where`, the modules whose inputs are read. Of several in a block the one is taken
            whose name has the longest front in common, the first of them.
        input_places: Exact names of those modules, one for each in `at`, as a card lists them.
    """

    method: ClassVar[str] = "parallel-adapter"
    pairs: ClassVar[bool] = True
    prefix: ClassVar[str] = "adapter_"
    presets: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # `where` alone would not say what goes in

    bottleneck: int = 8
    scale: float = 1.0
    where: tuple[str, ...] = HOULSBY
    inputs: tuple[str, ...] = ("attn", "ff.w1")
    input_places: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", as_names(self.inputs, "inputs"))
        if self.input_places is not None:
            object.__setattr__(self, "input_places", as_names(self.input_places, "input_places"))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        self.at_least_one("bottleneck")
        if not math.isfinite(self.scale):
            raise ConfigError(f"scale must be a finite number, got {self.scale}")
        if self.input_places is None and len(self.inputs) != len(self.where):
            raise ConfigError(
                f"inputs= has {len(self.inputs)} names and where= has {len(self.where)}",
                hint="one of each for every pair: where=('ff.w2',), inputs=('ff.w1',)",
            )
        if self.input_places is not None and len(self.input_places) != len(self.at or ()):
            raise ConfigError(f"{len(self.input_places)} input_places for {len(self.at or ())} places")

    def settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        settings = super().settings(model)
        if model is not None:
            settings["input_places"] = list(self.sources(model).values())
        elif self.input_places is None:
            del settings["input_places"]
        return settings

    def sources(self, model: nn.Module) -> dict[str, str]:
        """Place whose output is changed -> place whose input is read, in model order.

        Raises:
            DeltaError: an output has no input in its block.
        """
        places = self.places(model)
        if self.input_places is not None:
            return dict(zip(places, check_places(model, self.input_places), strict=True))
        found = self.paired(model)
        for place in places:
            if place not in found:
                raise DeltaError(
                    f"no input for the parallel adapter at {place!r}",
                    found=f"none of {', '.join(self.inputs)} is in its block",
                    hint="where=('ff.w2',), inputs=('ff.w1',)",
                )
        return {place: found[place][0] for place in places}

    def paired(self, model: nn.Module) -> dict[str, tuple[str, str]]:
        """What `where` and `inputs` pair: place -> (place whose input is read, the name in `inputs` that means it).

        Raises:
            DeltaError: a name is not in the model.
        """
        names, found = Names(model), dict[str, tuple[str, str]]()
        order = {name: position for position, name in enumerate(names.modules)}
        for output, source in zip(self.where, self.inputs, strict=True):
            read = sorted(names.meant(source), key=order.__getitem__)
            for place in names.meant(output):
                near = [other for other in read if names.layer_of(other) == names.layer_of(place)]
                if near and place not in found:
                    found[place] = max(near, key=lambda other: shared_parts([place, other])), source
        return found

    def shapes_by_place(self, model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
        modules = named_modules(model)
        return {
            place: adapter_shapes(
                _width_read(source, modules[source]), self.bottleneck, self.local_width(place, modules[place])
            )
            for place, source in self.sources(model).items()
        }

    def local_width(self, place: str, module: nn.Module) -> int:
        """Width of the output at a place."""
        return linear_features(place, module, self.method)[1]

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = self.local_width(place, module)  # what is read is as wide wherever a residual goes around
        return adapter_shapes(width, self.bottleneck, width)

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        fill_adapter(name, tensor, generator)

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return ParallelSite(place, tensors, self.activation, self.scale)

    def helpers(self, model: nn.Module) -> list[Site]:
        return [InputSite(source) for source in self.sources(model).values()]

    def link(self, sites: Sequence[Site], helpers: Sequence[Site]) -> None:
        for site, helper in zip(sites, helpers, strict=True):
            assert isinstance(site, ParallelSite)
            assert isinstance(helper, InputSite)
            site.reads(helper)


class InputSite(Site):
    """Keeps what a module was given last, until it is taken."""

    def __init__(self, place: str) -> None:
        super().__init__(place, {})
        self._seen: torch.Tensor | None = None

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        # First of all: a prefix of DeBERTa lengthens the input in a hook of its own.
        return [module.register_forward_pre_hook(self.keep, with_kwargs=True, prepend=True)]

    def uninstall(self, module: nn.Module) -> None:
        self._seen = None

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook."""
        given = (*args[:1], kwargs.get("hidden_states"), *args[1:], *kwargs.values())
        self._seen = next((x for x in given if isinstance(x, torch.Tensor) and x.is_floating_point()), None)

    def take(self) -> torch.Tensor | None:
        """What was kept; it is let go of."""
        seen, self._seen = self._seen, None
        return seen

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None}  # a part of a graph cannot be copied


class ParallelSite(AdapterSite):
    """Two linear layers beside a sub-layer."""

    def __init__(self, place: str, tensors: Mapping[str, torch.Tensor], activation: str, scale: float) -> None:
        super().__init__(place, tensors, activation)
        self.scale = scale

    def reads(self, source: InputSite) -> None:
        """Say where the input is kept; past nn.Module, since it is the attachment's helper already."""
        object.__setattr__(self, "_source", source)

    def read(self, hidden: torch.Tensor) -> torch.Tensor:
        source: InputSite = self.__dict__["_source"]
        seen = source.take()
        if seen is None:
            raise DeltaError(
                f"the parallel adapter at {self.place!r} has no input: {source.place!r} was not run before it",
                hint="name an input that is read first in inputs=",
            )
        return seen

    def up(self, narrow: torch.Tensor) -> torch.Tensor:
        return super().up(narrow) * self.scale


def _width_read(place: str, module: nn.Module) -> int:
    """Width of what a module reads: of a linear layer, else of the first in it.

    Raises:
        DeltaError: there is none.
    """
    for layer in module.modules():
        sizes = features(layer)
        if sizes is not None:
            return sizes[0]
    raise DeltaError(
        f"a parallel adapter cannot read the input of {place!r}",
        found=f"a {type(module).__name__} without a linear layer, so its width is not known",
        hint="inputs=('attn', 'ff.w1')",
    )
