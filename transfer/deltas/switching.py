"""Switching between deltas on one model: each kind is attached once, after that only tensors are copied."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from transfer.deltas.attached import Attached
from transfer.deltas.delta import Delta
from transfer.deltas.modules import inner_model

MOST_KINDS = 16  # that are kept at hand


class Switch:
    """Goes from delta to delta on one model.

    Deltas of one method and the same settings share what is attached: their tensors are copied into it, which takes a
    tenth of the time of attaching anew. What was attached to the model before stays on and acts along.

    switch = Switch(model)
    switch.to(first)
    switch.to(second)
    switch.to(None)  # as before
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: dict[str, Attached] = {}
        self._now: Attached | None = None

    @property
    def now(self) -> Attached | None:
        """What is attached now by this switch."""
        return self._now

    def to(self, thing: Any) -> Attached | None:
        """Make this delta the one that acts; None takes it off.

        Args:
            thing: A `Delta`, a stored module, or what holds a delta, such as an `Initialization`. It must not be
                trained in place: the next one of its kind is copied over it.
        Raises:
            FingerprintError: it says that it was made for another backbone.
            DeltaError: it does not fit the model; what acted before still does.
        """
        if thing is None:
            if self._now is not None:
                self._now.detach()
            self._now = None
            return None
        delta = Delta.of(thing, self._model)
        method = delta.method.direct()
        kind = json.dumps([method.method, method.settings()], sort_keys=True)
        known = self._known.get(kind)
        if known is None:
            before = self._now
            if before is not None:
                before.detach()
            try:
                known = method.attach(inner_model(self._model), delta.tensors)
            except BaseException:
                if before is not None:
                    before.attach()
                raise
            self._known[kind] = known
            if len(self._known) > MOST_KINDS:  # pruned LoRAs have ranks of their own each
                del self._known[next(one for one in self._known if one != kind)]
        else:
            self._known[kind] = self._known.pop(kind)  # the last used is the last to go
            known.load_state_dict(delta.tensors)
            if self._now is not None and self._now is not known:
                self._now.detach()
            known.attach()
        self._now = known
        return known
