"""What all delta methods share: settings, places, the random start, attaching."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import nn

from transfer.deltas.addressing import Parts, check_places, find_parts
from transfer.deltas.attached import Attached, check_tensors
from transfer.deltas.fused import fused_at, layout_of, rows_of_parts
from transfer.deltas.modules import inner_model, named_modules
from transfer.deltas.site import Site
from transfer.errors import ConfigError, DeltaError, TransferError


@dataclass(frozen=True, kw_only=True)
class DeltaMethod(ABC):
    """Settings of one method, and how it goes onto a model. A new method is a new file, an entry in `METHODS`, a test.

    Args:
        where: The places, by common-structure names, ends of module names or expressions (see `addressing`); or the
            name of one of the method's `presets`, alone.
        exclude: Modules to leave out of them, with all that is inside; the same kinds of names.
        at: Exact places, as a card lists them; goes before `where` and `exclude`.
        parts: place -> the parts of its fused layer that are trained, as a card lists them (see `fused`); read from
            `where` unless `at` is given.
    """

    method: ClassVar[str]
    learning_rate: ClassVar[float]
    starts_bare: ClassVar[bool] = True  # attached with its start, the backbone answers as without
    derived: ClassVar[tuple[str, ...]] = ()  # settings read from the model: on the card, but not chosen
    pairs: ClassVar[bool] = False  # a place alone says too little: it goes with one that is read
    by_output: ClassVar[tuple[str, ...]] = ()  # local tensors with a row for each output of the layer
    presets: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # a name `where` may be alone -> the places it stands for

    where: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    at: tuple[str, ...] | None = field(default=None, repr=False)
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        where = as_names(self.where, "where")
        object.__setattr__(self, "where", self.presets.get(where[0], where) if len(where) == 1 else where)
        object.__setattr__(self, "exclude", as_names(self.exclude, "exclude"))
        if self.at is not None:
            object.__setattr__(self, "at", as_names(self.at, "at"))
        object.__setattr__(self, "parts", {place: as_names(names, "parts") for place, names in self.parts.items()})
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Refuse settings outside their range.

        Raises:
            ConfigError: names the setting, its value and the range.
        """

    @abstractmethod
    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        """Local tensor name -> shape for the module at `place`; DeltaError if the method cannot go there."""

    @abstractmethod
    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        """Draw the start of one tensor (fp32, zero so far) in place; `name` is its local name."""

    @abstractmethod
    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        """What goes on the module at `place`, holding these tensors (local names)."""

    def helpers(self, model: nn.Module) -> list[Site]:
        """Sites without tensors that the method needs beside its places, such as a shift of positions."""
        return []

    def link(self, sites: Sequence[Site], helpers: Sequence[Site]) -> None:
        """Let sites reach what they share, before any is installed; most share nothing."""
        return

    def direct(self) -> DeltaMethod:
        """The method without what only training needs, such as a network that the stored tensors have been through."""
        return self

    def own_rates(self, rate: float) -> dict[str, float]:
        """Local tensor name -> learning rate of tensors that are trained apart: at their own rate, without decay."""
        return {}

    def loss(self, attached: Attached) -> torch.Tensor | None:
        """What training adds to the loss of the task, a scalar; None adds nothing."""
        return None

    def after_step(self, attached: Attached, rates: Mapping[str, float]) -> None:  # noqa: B027 most do nothing
        """Called in training after each step of the optimiser.

        Args:
            attached: What is trained.
            rates: Learning rate that the step had, for each name in `own_rates`.
        """

    def places(self, model: nn.Module) -> list[str]:
        """Names of the modules that the method goes on, in model order.

        Raises:
            DeltaError: a name in `where`, `exclude` or `at` is not in the model, nothing is left, or a part of a
                fused layer is asked for that the method cannot train alone.
        """
        if self.at is not None:
            return check_places(model, self.at)
        found = self.found(model)
        alone = (
            [] if self.by_output else [p for p, parts in found.items() if parts and not min(parts).startswith("ff.")]
        )
        if alone:
            raise DeltaError(
                f"{self.method} cannot be put on {', '.join(sorted(found[alone[0]]))} alone in {alone[0]!r}",
                found="one layer computes query, key and value there, and the method acts on all that it gives",
                hint=f"where=({alone[0].rpartition('.')[2]!r},) takes the whole layer",
            )
        return list(found)

    def found(self, model: nn.Module) -> Parts:
        """The places by `where` and `exclude`, with the parts of fused layers that they mean."""
        return find_parts(model, self.where, self.exclude)

    def fixed(self, model: nn.Module) -> Self:
        """The method with its exact places on this model, so that they are looked up once.

        Raises:
            DeltaError: as `places`.
        """
        if self.at is not None:
            return self
        places, parts = tuple(self.places(model)), {}
        if self.by_output:
            parts = {place: tuple(sorted(p)) for place, p in self.found(model).items() if p and place in places}
            # Who has named no part is not refused for one that cannot be told from the others.
            if self.where == type(self).where:
                modules = named_modules(model)
                parts = {place: names for place, names in parts.items() if layout_of(modules, place) is not None}
        return dataclasses.replace(self, at=places, parts=parts)

    def shapes(self, model: nn.Module) -> dict[str, tuple[int, ...]]:
        """Canonical tensor name -> shape, read from the modules; no forward pass is needed."""
        return {
            f"{place}.{name}": shape
            for place, local in self.shapes_by_place(model).items()
            for name, shape in local.items()
        }

    def shapes_by_place(self, model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
        """place -> local tensor name -> shape, in model order. For what a place alone does not tell, as tensors that
        several places share."""
        modules = named_modules(model)
        return {place: self.local_shapes(place, modules[place]) for place in self.places(model)}

    def settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        """All that `from_settings` needs, as JSON: the fields, and with a model the places it goes on there."""
        hidden = {"at", "parts"}
        chosen: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in hidden
        }
        chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}
        if not self.exclude:  # on the card only where there is something
            del chosen["exclude"]
        fixed = self if model is None else self.fixed(model)
        if fixed.at is not None:
            chosen["places"] = list(fixed.at) if model is None else fixed.places(model)
        if fixed.parts:
            chosen["parts"] = {place: list(names) for place, names in fixed.parts.items()}
        return chosen

    def start_settings(self, model: nn.Module) -> dict[str, Any]:
        """What decides the shapes of the start, as JSON: modules that agree in it can share one start."""
        return {"method": self.method, "shapes": {name: list(shape) for name, shape in self.shapes(model).items()}}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Build the method from what `settings` gave.

        Raises:
            DeltaError: a setting is unknown to the method, or of another kind than it takes.
            ConfigError: a setting is outside its range.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"at"}
        unknown = sorted(set(settings) - known - {"places"} - set(cls.derived))
        if unknown:
            raise DeltaError(
                f"{cls.method} has no setting named {unknown[0]!r}", found=f"settings: {', '.join(sorted(known))}"
            )
        places = settings.get("places")
        chosen = {name: value for name, value in settings.items() if name in known}
        try:
            return cls(**chosen, at=None if places is None else tuple(places))
        except TransferError:
            raise
        except (TypeError, AttributeError, ValueError, OverflowError) as error:  # cards come from strangers
            raise DeltaError(f"these settings are none of the method {cls.method!r}", found=str(error)[:200]) from error

    def draw(self, model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
        """The random start: fp32 tensors that fp16 holds exactly, the same wherever it is drawn.

        Each tensor has its own generator, seeded by its name, so neither the order of traversal nor another place
        changes it, and torch's global generator is not touched.

        Args:
            model: Any model or a `Backbone`.
            seed: Any integer; modules that shall be merged share it.
        """
        start = {}
        for name, shape in self.shapes(model).items():
            tensor = torch.zeros(shape, dtype=torch.float32)
            self.fill(self._local(name), tensor, generator_for(seed, name))
            start[name] = tensor.half().float()
        return start

    def attach(self, model: nn.Module, tensors: Mapping[str, torch.Tensor] | None = None, seed: int = 0) -> Attached:
        """Put the delta on a model; its code stays as it is, its parameters are frozen.

        Args:
            model: Any model or a `Backbone` (then its inner model).
            tensors: Canonical name -> tensor; cast to fp32. None draws the start with `seed`.
        Raises:
            DeltaError: a place is missing or cannot take the method, or the tensors do not fit.
        """
        host = inner_model(model)
        fixed = self.fixed(host)
        by_place = fixed.shapes_by_place(host)
        shapes = {f"{place}.{name}": shape for place, local in by_place.items() for name, shape in local.items()}
        if tensors is None:
            tensors = fixed.draw(host, seed)
        check_tensors(shapes, tensors)
        sites = []
        modules = named_modules(host)
        together = fused_at(host) if fixed.parts else {}
        for place, names in by_place.items():
            local = {name: tensors[f"{place}.{name}"].detach().to(torch.float32, copy=True) for name in names}
            site = fixed.site(place, local, host)
            if place in fixed.parts:
                rows = rows_of_parts(modules, place, fixed.parts[place], together.get(place, ()))
                site.train_rows(dict.fromkeys(self.by_output, rows))
            sites.append(site)
        helpers = fixed.helpers(host)
        fixed.link(sites, helpers)
        return Attached(host, self, sites, helpers).attach()

    def _local(self, name: str) -> str:
        """Canonical name without its place: local names begin with the method's own prefix."""
        return name[name.rindex(f".{self.prefix}") + 1 :]

    prefix: ClassVar[str]  # what all local tensor names of the method begin with, such as "lora_"


def generator_for(seed: int, name: str) -> torch.Generator:
    """A generator of a tensor's own, seeded by its canonical name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def as_names(names: Any, setting: str) -> tuple[str, ...]:
    """A tuple of names from a list, a tuple or a single name.

    Raises:
        ConfigError: it is something else.
    """
    names = (names,) if isinstance(names, str) else names
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{setting}= takes names of places, got {names!r}", hint=f"{setting}=('attn.q', 'attn.v')")
    return tuple(names)
