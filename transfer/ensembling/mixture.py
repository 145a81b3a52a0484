"""Mixture: many modules stacked once, and the delta that any mixing coefficients make of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.blocks import BlockColumns
from transfer.deltas.method import DeltaMethod
from transfer.ensembling.compatible import check_alike
from transfer.errors import DeltaError
from transfer.similarity.capture import batch_gradients
from transfer.training.measuring import Measured, measure
from zoo import Module


class Mixture:
    """base + sum_j c_j (theta_j - theta_0), for coefficients that change from step to step.

    The differences lie in one matrix (modules, values), its columns sorted by block, so a merge is one product, or one
    for each block. Memory: all modules in fp32. The sum is linear in c: a gradient by the merged tensors, however the
    method uses them, becomes one by c through the same matrix.

    Args:
        backbone: Left as it was found.
        method: Of the modules.
        modules: That can be merged tensor by tensor.
        start: theta_0.
        base: Where all coefficients are 0; None is `start`.
    Raises:
        DeltaError: the modules differ in method, backbone or settings, or `start` has other tensors than they.
    """

    def __init__(
        self,
        backbone: Backbone,
        method: DeltaMethod,
        modules: Sequence[Module],
        start: Mapping[str, Tensor],
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_alike(modules)
        self.backbone, self.method, self.modules = backbone, method.direct(), list(modules)
        columns = BlockColumns(start)
        self.blocks = columns.outside  # how many; a table of coefficients has a column for each, as `merge` reads it
        self.names = sorted(start, key=lambda name: (columns[name], name))
        self._order = list(start)
        self._shapes = {name: start[name].shape for name in self.names}
        self._sizes = [start[name].numel() for name in self.names]
        self._columns = [
            sum(start[name].numel() for name in self.names if columns[name] == column)
            for column in range(self.blocks + 1)  # the last is what lies outside the blocks
        ]
        device = backbone.device
        origin = self._flat(start)
        self.base = (origin if base is None else self._flat(base)).to(device)
        self.changes = torch.stack([self._row(module) - origin for module in self.modules]).to(device)

    def _row(self, module: Module) -> Tensor:
        tensors = module.tensors(dtype=torch.float32)
        if {name: tensor.shape for name, tensor in tensors.items()} != self._shapes:
            raise DeltaError(
                f"module {module.id!r} has other tensors than the start that it is compared with",
                hint=f"leave it out: --exclude {module.id}",
            )
        return self._flat(tensors)

    def _flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(values,) fp32, in the order of the columns."""
        return torch.cat([tensors[name].detach().float().flatten() for name in self.names])

    def merged(self, coefficients: Tensor) -> Tensor:
        """The merged delta in one row (values,); can be differentiated.

        Args:
            coefficients: (modules,), or (modules, blocks); what lies outside the blocks gets the mean over them.
        """
        if coefficients.dim() == 1:
            return self.base + coefficients @ self.changes
        parts = self.changes.split(self._columns, dim=1)
        by_column = (*coefficients.unbind(1), coefficients.mean(1))
        found = [column @ part for column, part in zip(by_column, parts, strict=True)]
        return self.base + torch.cat(found)

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """A row as canonical name -> tensor, in the order of the start."""
        parts = zip(self.names, flat.split(self._sizes), strict=True)
        found = {name: part.view(self._shapes[name]) for name, part in parts}
        return {name: found[name] for name in self._order}

    def tensors(self, coefficients: Tensor) -> dict[str, Tensor]:
        """The merged delta: canonical name -> tensor, fp32 on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.named(self.merged(coefficients)).items()}

    @contextlib.contextmanager
    def acting(self) -> Iterator[Acting]:
        """The backbone with a delta that takes on whatever is asked about; as it was afterwards."""
        with self.backbone.use(self.method, self.named(self.base)) as attached:
            yield Acting(self.backbone, attached)


class Acting:
    """What a backbone says of one set of tensors after another."""

    def __init__(self, backbone: Backbone, attached: Any) -> None:
        self._backbone, self._attached = backbone, attached

    def measured(self, tensors: Mapping[str, Tensor], rows: Sequence[Encoded]) -> Measured:
        """What it does on labelled examples."""
        self._attached.load_state_dict({name: tensor.detach() for name, tensor in tensors.items()})
        return measure(self._backbone, rows)

    def backward(self, tensors: Mapping[str, Tensor], rows: Sequence[Encoded]) -> None:
        """Send the gradient of the mean loss on labelled examples back through `tensors` to what they were made of."""
        self._attached.load_state_dict({name: tensor.detach() for name, tensor in tensors.items()})
        total: dict[str, Tensor] = {}
        for part, _ in batch_gradients(self._backbone, self._attached, rows):
            for name, gradient in part.items():
                total[name] = total[name] + gradient if name in total else gradient
        names = list(total)
        torch.autograd.backward([tensors[name] for name in names], [total[name] / len(rows) for name in names])
