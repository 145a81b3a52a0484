"""Folding a delta into the parameters of its host, where that is exact."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from transfer.deltas.attached import Attached, Attachment
from transfer.deltas.dotted import joined
from transfer.deltas.modules import named_modules
from transfer.deltas.site import Site
from transfer.errors import DeltaError


@torch.no_grad()
def fold(attached: Attached) -> nn.Module:
    """See `Attached.merge`."""
    values = merged_values(attached)  # all of them are known before the first parameter is touched
    attached.detach()
    for name, value in values.items():
        place, _, local = name.rpartition(".")
        module = attached.host.get_submodule(place)
        old = module._parameters.get(local)
        if old is None:
            weight: torch.Tensor = module.weight  # type: ignore[assignment]
            module.register_parameter(local, nn.Parameter(value, requires_grad=weight.requires_grad))
        else:
            old.copy_(value)
    return attached.host


def _check_first(attached: Attached, modules: Mapping[str, nn.Module]) -> None:
    """Refuse where what was attached before acts at the same place and is no change of parameters: it comes first.

    Folded in, the delta would go before it, and the host would answer otherwise. So it would where another delta reads
    past the hooks of a layer that this one is on, or puts rows of its own into what the layer gives.
    """
    places = {site.place for site in attached.sites if isinstance(site, Site)}
    earlier = True
    for other in attached.host.children():
        if other is attached:
            earlier = False
            continue
        for site in other.sites if isinstance(other, Attachment) else ():
            if not isinstance(site, Site):
                continue
            first = earlier and site.place in places and site.changes(modules[site.place]) is None
            if first or any(site.passes_by(place) for place in places):
                raise DeltaError(
                    f"this delta cannot be merged into the backbone: another one acts before it at {site.place!r}",
                    found=f"a {type(site).__name__}",
                    hint="detach that one first",
                )


@torch.no_grad()
def merged_values(attached: Attached) -> dict[str, torch.Tensor]:
    """Name of every parameter that the delta changes -> its value with the delta folded in, in its own dtype.

    The host stays as it is. A bias that is not there yet is among them too.

    Raises:
        DeltaError: as `Attached.merge`.
    """
    if not attached.attached:
        raise DeltaError("this delta is on no model that it could be merged into", hint="attached.attach() first")
    modules, owners = named_modules(attached.host), _owners(attached.host)
    method, values = attached.method.method, {}
    _check_first(attached, modules)
    for site in attached.sites:
        assert isinstance(site, Site)
        module = modules[site.place]
        changes = site.changes(module)
        if changes is None:
            raise DeltaError(
                f"method {method!r} cannot be merged into the backbone: it is no change of the parameters there",
                found=f"a {type(site).__name__} at {site.place!r}",
                hint="keep it attached; LoRA(), SoRA() and BitFit() can be merged",
            )
        for name, change in changes.items():
            _check(method, site.place, module, name, change, owners)
            old = module._parameters.get(name)
            if old is None:
                values[f"{site.place}.{name}"] = change.detach().clone().to(module.weight)  # type: ignore[arg-type]
                continue
            wide = torch.promote_types(old.dtype, torch.float32)
            values[f"{site.place}.{name}"] = (old.to(wide) + change.to(old.device, wide)).to(old.dtype)
    return values


def _check(
    method: str, place: str, module: nn.Module, name: str, change: torch.Tensor, owners: dict[int, list[str]]
) -> None:
    """Refuse a parameter that cannot be changed, or not without changing what another module computes."""
    full = f"{place}.{name}"
    parameter = module._parameters.get(name)
    why = hint = None
    if parameter is None:
        weight = module._parameters.get("weight")
        if name == "bias" and weight is not None and isinstance(module, (nn.Linear, nn.LayerNorm)):
            return  # their forward looks for a bias
        why, hint = f"a {type(module).__name__}, which has no {name} of its own to take it", "keep it attached"
    elif not parameter.is_floating_point() or parameter.element_size() < 2:
        why, hint = f"{full} is quantised ({parameter.dtype})", "load the backbone without quantisation"
    elif parameter.shape != change.shape:
        why = f"{full} is stored as {tuple(parameter.shape)}, not as {tuple(change.shape)}"
        hint = "keep it attached"
    if why is not None or parameter is None:
        raise DeltaError(f"the {method} delta at {place!r} cannot be merged into the backbone", found=why, hint=hint)
    others = [owner for owner in owners[id(parameter)] if owner != full]
    if others:
        raise DeltaError(
            f"the {method} delta at {place!r} cannot be merged into the backbone: {full} is tied to {others[0]}",
            found=f"{len(others)} other users of the same tensor, which the delta leaves as they are",
            hint="keep it attached, or train one without this place",
        )


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Identity of each parameter -> the names it has; a module that is used in several places counts once."""
    owners: dict[int, list[str]] = {}
    for place, module in named_modules(model).items():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(joined(place, name))
    return owners
