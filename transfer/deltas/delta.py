"""A delta by itself: a method and its tensors, on no model yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from transfer.deltas import METHODS
from transfer.deltas.attached import Attached
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import named_modules
from transfer.errors import DeltaError


class _Card(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...


class _Module(Protocol):
    @property
    def card(self) -> _Card: ...
    def tensors(self, dtype: torch.dtype | None = None) -> Mapping[str, torch.Tensor]: ...


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Delta:
    """A method and the tensors it trained, by canonical name.

    Args:
        method: How the tensors go onto a model.
        tensors: Canonical name -> tensor.
        settings: What the method's `from_settings` takes, places included; by default the method's own.
    """

    method: DeltaMethod
    tensors: dict[str, torch.Tensor]
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.settings:
            object.__setattr__(self, "settings", self.method.settings())

    @classmethod
    def of(cls, thing: Any, model: Any = None) -> Delta:
        """The delta of whatever holds one: itself, a stored module, an `Initialization`, a `Finetuned`.

        Args:
            thing: What holds the delta.
            model: A `Backbone` that the thing must have been made for, if it says what it was made for.
        Raises:
            FingerprintError: it was made for another backbone.
            DeltaError: it holds no delta.
        """
        if isinstance(thing, Delta):
            return thing
        check_fits, fingerprint = getattr(thing, "check_fits", None), getattr(model, "fingerprint", None)
        if check_fits is not None and fingerprint is not None:
            check_fits(fingerprint, model.name)
        held = getattr(thing, "delta", None)
        if isinstance(held, Delta):
            return held
        if hasattr(thing, "card") and hasattr(thing, "tensors"):
            return cls.from_module(thing)
        raise DeltaError(
            f"a {type(thing).__name__} holds no delta",
            hint="a Delta, an Initialization, a Finetuned or a stored Module",
        )

    @classmethod
    def from_module(cls, module: _Module) -> Delta:
        """The delta of a stored module, in fp32.

        Raises:
            UnknownNameError: the card's method is not among `METHODS`.
            DeltaError: the card's settings are not the method's.
        """
        settings = dict(module.card.settings)
        method = METHODS.get(module.card.method).from_settings(settings)
        return cls(method, dict(module.tensors(dtype=torch.float32)), settings)

    @classmethod
    def from_attached(cls, attached: Attached) -> Delta:
        """A copy of what is attached; later training does not change it."""
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in attached.state_dict().items()}
        return cls(attached.method, tensors, attached.method.settings(attached.host))

    def save(self, folder: Path | str, replace: bool = False) -> Path:
        """Write it as a folder by itself, whole or not at all: its settings as JSON, its tensors as safetensors.

        Args:
            folder: Must not be there, or be empty, unless `replace` is True.
            replace: Put it in the place of a delta that was saved there before, and of nothing else.
        Raises:
            PathError: something is in the folder, or with `replace` something other than a saved delta.
            TensorError: the tensors cannot be written.
        """
        from zoo.folders import whole_folder
        from zoo.formats import native

        files = (native.CONFIG, native.TENSORS)
        with whole_folder(Path(folder), files if replace else (), native.CONFIG) as part:
            native.write(part, self.method.method, self.settings, self.tensors, "")
        return Path(folder)

    @classmethod
    def load(cls, folder: Path | str, model: nn.Module | None = None) -> Delta:
        """Read what `save` wrote, or a checkpoint of PEFT or OpenDelta; tensors in fp32.

        Args:
            folder: With the files of one of `zoo.formats`.
            model: Where it shall go. What `save` wrote can do without; the names of others' are fitted to its names.
        Raises:
            FormatError: there is no checkpoint, or it is of a variant that cannot be read.
            TensorError: the tensors cannot be read.
            DeltaError: the settings are not the method's.
        """
        from zoo.formats import detect

        folder = Path(folder)
        format_ = detect(folder)
        places = None if model is None else [name for name in named_modules(model) if name]
        nameless = None if model is None else format_.nameless(folder)
        own = None if nameless is None or model is None else METHODS.get(nameless)().places(model)
        found = format_.read(folder, places, own)
        method = METHODS.get(found.method).from_settings(found.settings)
        tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in found.tensors.items()}
        return cls(method, tensors, dict(found.settings))

    def attach(self, model: nn.Module) -> Attached:
        """Put it on a model; the tensors are copied."""
        return self.method.attach(model, self.tensors)

    @property
    def n_parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())
