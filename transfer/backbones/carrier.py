"""Carrier: a frozen model that deltas are put on, taken off and exchanged; knows nothing of tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from transfer.deltas.attached import Attached, Attachment
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.deltas.mixed import Mixed
from transfer.deltas.switching import Switch
from transfer.errors import BackboneError

Numbers = Sequence[int] | None  # of the module that answers each row of a mixed batch, -1 for none


class LoadedKeys(NamedTuple):
    """What `load_state_dict` reports, in the form that torch and the Trainer expect."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Carrier(nn.Module):
    """A frozen model with a delta on it, or several, or none.

    The only trained tensors are those of the delta, and `state_dict()` holds them alone.
    """

    model: nn.Module
    tokenizer: Any
    fingerprint: str

    @property
    def delta(self) -> Attached | None:
        """What is attached to the model now; the last of several."""
        found = [attached for attached in self._deltas() if isinstance(attached, Attached)]
        return found[-1] if found else None

    def _deltas(self) -> list[Attachment]:
        """In the order they were attached. Read off the model, so that `LoRA().attach(backbone)` counts as well."""
        return [child for child in self.model.children() if isinstance(child, Attachment)]

    def attach(self, delta: Any, tensors: Mapping[str, Tensor] | None = None, seed: int = 0) -> Attached:
        """Attach a delta; it replaces what is attached now, unless it does not fit: then nothing changes.

        Args:
            delta: A method (`LoRA()`), a `Delta`, a stored module, what holds a delta such as an `Initialization`, or
                what was attached to this backbone before.
            tensors: Canonical name -> tensor; None takes those of `delta`, or for a method its start.
            seed: Of the start.
        Raises:
            DeltaError: the delta cannot go on this model, or the tensors do not fit.
            FingerprintError: it says that it was made for another backbone.
        """
        before = self._deltas()
        self.detach()
        try:
            attached = self._attached(delta, tensors, seed)
        except BaseException:
            self.detach()  # one that was attached before may be on again, and then not fit
            for old in before:
                old.attach()
            self.train(self.training)
            raise
        attached.train(self.training)
        return attached

    def _attached(self, delta: Any, tensors: Mapping[str, Tensor] | None, seed: int) -> Attached:
        if isinstance(delta, Attached) and delta.host is self.model:
            attached = delta.attach()
            if tensors is not None:
                attached.load_state_dict(tensors)
            return attached
        if isinstance(delta, DeltaMethod):
            return delta.attach(self.model, tensors, seed)
        found = Delta.of(delta, self)
        return found.attach(self.model) if tensors is None else found.method.attach(self.model, tensors)

    def detach(self) -> None:
        """Take the delta off; the model answers as it did before."""
        for attached in reversed(self._deltas()):
            attached.detach()

    def merge(self) -> None:
        """Fold what is attached into the model's parameters; from then on it is another backbone, by its fingerprint.

        Raises:
            BackboneError: nothing is attached.
            DeltaError: a delta is no change of parameters; nothing has been changed then.
        """
        from transfer.backbones.fingerprints import fingerprint
        from transfer.deltas.folding import merged_values

        deltas = [attached for attached in self._deltas() if isinstance(attached, Attached)]
        if not deltas or len(deltas) < len(self._deltas()):
            raise BackboneError(
                "no delta is attached that could be merged",
                found="one that differs by row" if self._deltas() else None,
                hint="backbone.attach(delta)",
            )
        for attached in deltas[1:]:
            merged_values(attached)  # refuses before the first is folded in, which refuses by itself
        for attached in deltas:
            attached.merge()
        self.model.requires_grad_(False)
        self.fingerprint = fingerprint(self.model, self.tokenizer)

    @contextlib.contextmanager
    def use(self, delta: Any, tensors: Mapping[str, Tensor] | None = None) -> Iterator[Attached]:
        """The backbone with `delta` attached inside the block, and as it was afterwards; see `attach`."""
        with self.bare():
            yield self.attach(delta, tensors)

    @contextlib.contextmanager
    def switching(self) -> Iterator[Switch]:
        """Go from delta to delta inside the block with `switch.to(delta)`; afterwards the backbone is as it was."""
        with self.bare():
            yield Switch(self)

    def routed(self, modules: Numbers | Tensor) -> contextlib.AbstractContextManager[Any]:
        """Inside the block the rows of a forward pass are read by the modules of these numbers; None says nothing.

        Raises:
            BackboneError: modules are named, but none are served.
        """
        if modules is None:
            return contextlib.nullcontext()
        if not self.serving:
            raise BackboneError("rows name modules, but none are served", hint="with backbone.serve(modules) as server")
        return self.serving[-1].rows(modules)

    @property
    def serving(self) -> list[Mixed]:
        """What is attached whose rows are read by modules of their own."""
        return [attached for attached in self._deltas() if isinstance(attached, Mixed)]

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """The backbone without its delta inside the block, and as it was afterwards."""
        kept = [(attached, attached.training) for attached in self._deltas()]
        training = self.training
        self.detach()
        try:
            yield
        finally:
            self.detach()
            self.train(training)
            for attached, mode in kept:
                attached.attach().train(mode)

    def train(self, mode: bool = True) -> Self:
        """Only the delta's own dropout follows `mode`: the frozen model stays in evaluation mode."""
        self.training = mode
        self.model.eval()
        for attached in self._deltas():
            attached.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The tensors of the delta, by canonical name; empty without one."""
        return {} if self.delta is None else self.delta.state_dict()

    def load_state_dict(  # type: ignore[override]
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> LoadedKeys:
        """Load the tensors of the delta, whole or not at all: `strict` is there for the Trainer, which turns it off.

        Raises:
            BackboneError: nothing is attached.
            DeltaError: the names or shapes are not those of the delta.
        """
        if self.delta is None:
            raise BackboneError("no delta is attached that could be loaded into", hint="backbone.attach(LoRA())")
        self.delta.load_state_dict(state_dict)
        return LoadedKeys([], [])
