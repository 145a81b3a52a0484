"""A delta on a model: its parameters, its hooks, and the way on and off again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.utils.hooks import RemovableHandle

from transfer.deltas.dotted import joined
from transfer.deltas.modules import Part, device_of, named_modules
from transfer.deltas.site import Site
from transfer.errors import DeltaError

if TYPE_CHECKING:
    from transfer.deltas.method import DeltaMethod


class Attachment(Part):
    """What sits on a host model by hooks, or sat there and can be put back.

    While attached it is a child of the host, so `host.parameters()`, `host.to()`, `copy.deepcopy(host)` and pickling
    carry it along; the backbone is frozen. Several can be on one host, also at the same place: the one attached first
    runs first, and they can be detached in any order.
    """

    def __init__(self, host: nn.Module, sites: Sequence[Site], helpers: Sequence[Site] = ()) -> None:
        super().__init__()
        self.sites = nn.ModuleList(sites)
        self.helpers = nn.ModuleList(helpers)
        self._handles: list[RemovableHandle] = []
        self._name: str | None = None
        self._trainable_before: list[str] = []
        self._thawed: list[str] = []  # parameters of the backbone that were turned on while this was attached
        # Past nn.Module.__setattr__, which would make the host a child of its own child.
        object.__setattr__(self, "_host", host)

    @property
    def host(self) -> nn.Module:
        """The model that it is, or was last, attached to."""
        host: nn.Module = self.__dict__["_host"]
        return host

    @property
    def attached(self) -> bool:
        """True while it acts on its host."""
        return self._name is not None

    @property
    def places(self) -> list[str]:
        """Names of the host's modules that it acts on, in model order."""
        return [site.place for site in self._sites()]

    def forward(self, x: Any) -> Any:
        """Nothing: a host that runs its children in order, as `nn.Sequential` does, runs past the delta among them."""
        return x

    def attach(self) -> Self:
        """Put it on its host (again), with the tensors it has. Nothing happens if it is on already.

        Raises:
            DeltaError: the host no longer has one of the places.
        """
        if self.attached:
            return self
        modules = named_modules(self.host)
        missing = [place for place in self.places if place not in modules]
        if missing:
            raise DeltaError(f"the model no longer has a place named {missing[0]!r}")
        self._freeze()
        taken = dict(self.host.named_children())
        self._name = next(name for name in (f"delta_{i}" for i in range(len(taken) + 1)) if name not in taken)
        self.host.add_module(self._name, self)
        try:
            for site in self._all():
                site.to(device_of(modules[site.place], self.host))
                self._handles += site.install(modules[site.place])
        except BaseException:
            self.detach()
            raise
        self.train(self.host.training)
        return self

    def detach(self) -> Self:
        """Take it off: the host's outputs are bit-identical to those without it. It keeps its tensors."""
        if self._name is None:
            return self
        for handle in self._handles:
            handle.remove()
        self._handles = []
        modules = named_modules(self.host)
        for site in self._all():
            if site.place in modules:  # a layer may have been taken out since
                site.uninstall(modules[site.place])
        del self.host._modules[self._name]
        self._name = None
        self._thawed = [name for name, parameter in backbone_parameters(self.host) if parameter.requires_grad]
        self._unfreeze()
        return self

    def _sites(self) -> list[Site]:
        return [site for site in self.sites if isinstance(site, Site)]

    def _all(self) -> list[Site]:
        """Sites, then helpers: installed and uninstalled in this order."""
        return [*self._sites(), *(helper for helper in self.helpers if isinstance(helper, Site))]

    def _freeze(self) -> None:
        backbone = dict(backbone_parameters(self.host))
        others = [module for module in self.host.children() if isinstance(module, Attachment)]
        # The first on a host remembers what was trainable; the others take the record over from it.
        self._trainable_before = (
            list(others[0]._trainable_before) if others else [n for n, p in backbone.items() if p.requires_grad]
        )
        if others:  # what was turned on since, such as a head, stays on
            return
        for name, parameter in backbone.items():
            parameter.requires_grad_(name in self._thawed)

    def _unfreeze(self) -> None:
        if any(isinstance(module, Attachment) for module in self.host.children()):
            return
        trainable = set(self._trainable_before)
        for name, parameter in backbone_parameters(self.host):
            parameter.requires_grad_(name in trainable)


class Attached(Attachment):
    """A delta on a host model: a method and the tensors it trains."""

    def __init__(
        self, host: nn.Module, method: DeltaMethod, sites: Sequence[Site], helpers: Sequence[Site] = ()
    ) -> None:
        super().__init__(host, sites, helpers)
        self.method = method

    @property
    def n_parameters(self) -> int:
        """Number of values in the stored delta."""
        return sum(tensor.numel() for tensor in self.state_dict().values())

    def merge(self) -> nn.Module:
        """Fold the delta into the host's parameters and take it off; the host then answers as it did with it on.

        Computed in fp32 at least; a parameter keeps its dtype, so in bf16 the outputs agree to its rounding. The
        delta keeps its tensors: attached again it would act a second time.

        Returns:
            The host.
        Raises:
            DeltaError: the method is no change of parameters, a parameter has another user in the model, or is
                quantised. Nothing has been changed then.
        """
        from transfer.deltas.folding import fold

        return fold(self)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Canonical name and tensor, in model order; tensors carry gradients where the site computes them."""
        for site in self._sites():
            for name, tensor in site.tensors().items():
                yield f"{site.place}.{name}", tensor

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """Canonical name -> tensor, detached, sharing memory with the parameters (clone to keep a copy)."""
        if args or kwargs.get("destination") is not None:
            # The host collects its own state: torch's way, whose names `host.load_state_dict` finds again.
            return super().state_dict(*args, **kwargs)
        return {name: tensor.detach() for name, tensor in self.named_tensors()}

    def load_state_dict(  # type: ignore[override]
        self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copy tensors in by canonical name; the parameters keep their dtype and device.

        Args:
            state_dict: Canonical name -> tensor of the same shape.
            strict: Refuse missing and unexpected names; else they are left as they are and returned.
            assign: Not offered: optimisers hold on to the parameters.
        Raises:
            DeltaError: a name is missing or unexpected, or a shape differs; nothing has been copied then.
        """
        if assign:
            raise DeltaError("assign=True is not offered: an optimiser would keep training the old tensors")
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        missing, unexpected = check_tensors(own, state_dict, strict=strict)
        for site in self._sites():
            for name in list(site.tensors()):
                full = f"{site.place}.{name}"
                if full in state_dict:
                    site.load(name, state_dict[full])
        return _IncompatibleKeys(missing, unexpected)

    def extra_repr(self) -> str:
        return f"{self.method}, attached={self.attached}"


def backbone_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of everything in `model` that is no delta's."""
    for name, module in named_modules(model).items():
        for local, parameter in module.named_parameters(recurse=False):
            yield joined(name, local), parameter


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, torch.Tensor], strict: bool = True
) -> tuple[list[str], list[str]]:
    """Compare names and shapes; returns (missing, unexpected) names.

    Raises:
        DeltaError: a shape differs, or `strict` and a name is missing or unexpected.
    """
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected]
    wrong = [name for name in expected if name in given and tuple(given[name].shape) != tuple(expected[name])]
    problems = []
    if strict and missing:
        problems.append(f"missing {_some(missing)}")
    if strict and unexpected:
        problems.append(f"unexpected {_some(unexpected)}")
    if wrong:
        name = wrong[0]
        problems.append(
            f"{len(wrong)} of another shape: {name} is {tuple(given[name].shape)}, not {tuple(expected[name])}"
        )
    if problems:
        raise DeltaError(
            "these tensors do not fit the delta",
            found="; ".join(problems),
            hint="use the method's settings from the card of the module that the tensors belong to",
        )
    return missing, unexpected


def _some(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
