"""Mixed batches: one forward pass in which every row has a delta of its own, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from transfer.deltas.attached import Attachment, check_tensors
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import inner_model, named_modules
from transfer.deltas.site import Site
from transfer.errors import ConfigError, DeltaError
from transfer.registry import Registry

# Method -> what acts at one place for several deltas of it.
MIXED = Registry(
    "method for mixed batches",
    {
        "lora": "transfer.deltas.mixed_sites:LoRARows",
        "adapter": "transfer.deltas.mixed_sites:AdapterRows",
        "bitfit": "transfer.deltas.mixed_sites:BiasRows",
        "prefix": "transfer.deltas.mixed_prefix:PrefixRows",
    },
)


# Attentions of transformers that transpose to (tokens, batch, width) before query, key and value.
TURNED = frozenset({"LongformerSelfAttention", "LEDEncoderSelfAttention"})


class Router:
    """Says to all sites of a `Mixed` which delta each row of the batch uses: 0 is none, i + 1 is the i-th."""

    rows: torch.Tensor | None = None

    def of(self, batch: int, device: torch.device) -> torch.Tensor:
        """(batch,) indices. A batch that is a multiple holds each row several times on end: beams, or its tokens.

        Raises:
            DeltaError: nobody has said which deltas the rows use, or the batch has another number of rows.
        """
        if self.rows is None:
            raise DeltaError(
                "the rows of this batch have not been told which deltas they use",
                hint="with mixed.rows([0, 1, None]): model(...); or server.choice_logits(examples, modules=[...])",
            )
        known = self.rows.shape[0]
        if not known or batch % known:
            raise DeltaError(
                f"deltas were named for {known} rows, but a layer with a delta was given {batch}",
                found="another batch, or a layer that the rows share, such as that of DeBERTa-v3's positions",
                hint="name one for each row, or go from delta to delta with backbone.switching()",
            )
        rows = self.rows.to(device)
        return rows if batch == known else rows.repeat_interleave(batch // known)


@dataclass(frozen=True, eq=False)
class Piece:
    """What one delta has at one place: its method and its tensors, by local name."""

    method: Any
    tensors: dict[str, torch.Tensor]


class MixedSite(Site):
    """The tensors of all deltas at one place, stacked: (1 + deltas, ...), the first of them zero.

    What is stacked is padded with zeros to the largest of its kind; a site is such that they change nothing.
    """

    def __init__(self, place: str, stacks: dict[str, torch.Tensor], router: Router) -> None:
        super().__init__(place, stacks)
        self.requires_grad_(False)
        self.router = router
        self.trained: dict[str, torch.Tensor] = {}  # local name -> (1 + deltas, out), what is trained where not all is

    @classmethod
    def kind(cls, method: DeltaMethod) -> str:
        """Deltas of equal kinds share a site."""
        return ""

    @classmethod
    def build(cls, place: str, pieces: Sequence[Piece | None], router: Router, model: nn.Module) -> Site:
        """The site of these deltas; None is one that is not at this place."""
        raise NotImplementedError(f"{cls.__name__} cannot be built")

    @classmethod
    def helpers(cls, methods: Sequence[DeltaMethod | None], router: Router, model: nn.Module) -> list[Site]:
        """As `DeltaMethod.helpers`, for all of them; None is a delta of another kind."""
        return []

    def picked(self, name: str, batch: int) -> torch.Tensor:
        """(batch, ...): of the stack of that local name what each row uses."""
        stack: torch.Tensor = self.get_parameter(name)
        if name in self.trained and stack.requires_grad:
            trained = self.trained[name].to(stack.device)
            stack = torch.where(trained.view(*trained.shape, *[1] * (stack.dim() - 2)), stack, stack.detach())
        return stack.index_select(0, self.router.of(batch, stack.device))


class Mixed(Attachment):
    """Deltas on one model that act on the rows of a batch, each on its own.

    Ranks, widths, lengths and places may differ, and so may the methods, as long as they are among `MIXED`. Dropout is
    left out. What is attached to the model beside it acts on every row.

    mixed = Mixed(model, [first, second]).attach()
    with mixed.rows([0, 1, None, 0]):
        model(**batch_of_four)

    Args:
        model: Any model or a `Backbone` (then its inner model).
        things: What `Switch.to` takes: a `Delta`, a stored module, an `Initialization`, ... The tensors are copied.
    Raises:
        FingerprintError: a thing says that it was made for another backbone.
        DeltaError: one does not fit the model, or its method cannot be mixed.
    """

    def __init__(self, model: nn.Module, things: Sequence[Any]) -> None:
        host, router = inner_model(model), Router()
        deltas = [Delta.of(thing, model) for thing in things]
        sites, helpers = _build(host, deltas, router)
        super().__init__(host, sites, helpers)
        self.n_deltas = len(deltas)
        self.router = router

    @contextlib.contextmanager
    def rows(self, deltas: Sequence[int | None] | torch.Tensor) -> Iterator[Self]:
        """Inside the block, row i of a batch uses the delta with the number `deltas[i]`; None or -1 is none.

        Raises:
            ConfigError: there is no delta of such a number.
        """
        before = self.router.rows
        self.router.rows = self._checked(deltas)
        try:
            yield self
        finally:
            self.router.rows = before

    def _checked(self, deltas: Sequence[int | None] | torch.Tensor) -> torch.Tensor:
        if not isinstance(deltas, torch.Tensor):
            deltas = torch.tensor([-1 if number is None else number for number in deltas], dtype=torch.long)
        wrong = deltas[(deltas < -1) | (deltas >= self.n_deltas)]
        if len(wrong):
            raise ConfigError(f"no delta has the number {int(wrong[0])}", found=f"{self.n_deltas} deltas, from 0 on")
        return deltas.long() + 1

    def extra_repr(self) -> str:
        return f"{self.n_deltas} deltas, attached={self.attached}"


def _build(host: nn.Module, deltas: Sequence[Delta], router: Router) -> tuple[list[Site], list[Site]]:
    """Sites in model order, and helpers, of all kinds of deltas."""
    modules = named_modules(host)
    groups: dict[tuple[str, str], list[DeltaMethod | None]] = {}
    for number, delta in enumerate(deltas):
        method = delta.method.direct().fixed(host)
        if method.method not in MIXED.names():
            raise DeltaError(
                f"method {method.method!r} cannot be mixed with others in one batch",
                found=f"methods that can: {', '.join(MIXED.names())}",
                hint="backbone.switching() goes from delta to delta",
            )
        check_tensors(method.shapes(host), delta.tensors)
        kind = (method.method, MIXED.get(method.method).kind(method))
        groups.setdefault(kind, [None] * len(deltas))[number] = method
    sites: list[Site] = []
    helpers: list[Site] = []
    for (name, _), methods in groups.items():
        kind_of_site: type[MixedSite] = MIXED.get(name)
        at = [set() if method is None else set(method.places(host)) for method in methods]
        for place in (place for place in modules if any(place in places for places in at)):
            _refuse_experts(place)
            _refuse_turned(place, modules)
            pieces = [
                None if method is None or place not in places else _piece(method, delta, place, modules[place])
                for method, places, delta in zip(methods, at, deltas, strict=True)
            ]
            sites.append(kind_of_site.build(place, pieces, router, host))
        helpers += kind_of_site.helpers(methods, router, host)
    return sites, helpers


def _piece(method: DeltaMethod, delta: Delta, place: str, module: nn.Module) -> Piece:
    names = method.local_shapes(place, module)
    return Piece(method, {name: delta.tensors[f"{place}.{name}"].detach().to(torch.float32) for name in names})


def _refuse_turned(place: str, modules: Mapping[str, nn.Module]) -> None:
    """Attention that hands tokens over as if they were rows: a layer inside cannot tell which row is whose."""
    owner = type(modules.get(place.rpartition(".")[0])).__name__
    if owner in TURNED:
        raise DeltaError(
            f"{place!r} is in a {owner}, which puts the tokens in front of the rows",
            hint="backbone.switching() goes from delta to delta",
        )


def _refuse_experts(place: str) -> None:
    """An expert is given tokens from here and there, so nothing tells whose row they are."""
    if "experts" in place.split("."):
        raise DeltaError(
            f"{place!r} is an expert, which does not see which row its tokens are from",
            hint="backbone.switching() goes from delta to delta",
        )
