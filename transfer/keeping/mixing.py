"""Ways with few free directions: only mixing coefficients are tuned, or these and a low-rank rest."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from transfer.backbones.encoding import Encoded
from transfer.deltas.method import generator_for
from transfer.ensembling.fitted import batches
from transfer.ensembling.mixture import Acting, Mixture
from transfer.keeping.keep import Keep, Tensors, Trial
from transfer.keeping.work import Work


class Mixing(Keep):
    """start + sum_j c_j (theta_j - theta_0), where the c_j alone are trained, from 0, by Adam.

    So step 0 is the start as it is, whatever it is: a merge whose weights are moved, or scratch, into which the same
    modules are mixed. Dropout is off. A killed run begins again and ends where it would have.
    """

    name: ClassVar[str] = "mixing"
    sources: ClassVar[bool] = True
    rest: ClassVar[bool] = False

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        begun = time.perf_counter()
        mixture = Mixture(work.backbone, work.method, work.sources, work.origin, work.start)
        run = _Run(work, mixture, self.rest)
        trial = Trial()
        settings = work.settings
        every = settings.eval_every or settings.steps
        rows = batches(train, settings.batch_size, settings.seed)
        lowest, stale = float("inf"), 0
        with mixture.acting() as acting:
            for step in range(settings.steps + 1):
                if step:
                    run.step(step, acting, next(rows))
                if step % every and step != settings.steps:
                    continue
                found = run.tensors()
                measured = acting.measured(found, dev) if dev else None
                loss = None if measured is None else measured.calibrated_loss
                trial.add(f"step {step}", found, loss)
                if measured is not None and loss is not None:
                    trial.history.append({"step": step, "loss": measured.loss, "calibrated": loss})
                    stale = 0 if loss < lowest else stale + 1
                    lowest = min(lowest, loss) if loss == loss else lowest
                trial.steps = step
                if dev and settings.patience is not None and stale >= settings.patience:
                    break
        trial.seconds = time.perf_counter() - begun
        trial.notes["sources"] = [module.id for module in work.sources]
        return trial


class MixingRest(Mixing):
    """Coefficients in the first half of the steps, then these and a low-rank rest U V added to each tensor.

    U begins at 0, so the rest does, too; V is drawn with a fixed seed. A tensor of one dimension has a full rest. The
    rest is trained at the method's learning rate.
    """

    name: ClassVar[str] = "mixing-rest"
    rest: ClassVar[bool] = True


class _Run:
    """What is trained, and the delta that it makes."""

    def __init__(self, work: Work, mixture: Mixture, rest: bool) -> None:
        self.mixture = mixture
        device = mixture.base.device
        self.coefficients = torch.zeros(len(mixture.modules), device=device, requires_grad=True)
        self.rests = _Rests(mixture.named(mixture.base), work.keep.rest_rank) if rest else None
        self.begins = work.settings.steps // 2 + 1 if rest else None  # the step at which the rest joins in
        groups = [{"params": [self.coefficients], "lr": work.keep.mixing_rate}]
        if self.rests is not None:
            rate = work.settings.rate(work.method)
            groups.append({"params": self.rests.parameters(), "lr": rate})
        self.optimiser = torch.optim.Adam(groups)

    def step(self, step: int, acting: Acting, rows: Sequence[Encoded]) -> None:
        self.optimiser.zero_grad(set_to_none=True)  # what has no gradient is left alone by Adam
        acting.backward(self._made(self.begins is not None and step >= self.begins), rows)
        self.optimiser.step()

    def tensors(self) -> Tensors:
        """The delta as it is now, on the CPU."""
        with torch.no_grad():
            return {name: tensor.detach().cpu().clone() for name, tensor in self._made(True).items()}

    def _made(self, with_rest: bool) -> Tensors:
        made = self.mixture.named(self.mixture.merged(self.coefficients))
        if self.rests is None or not with_rest:
            return made
        return {name: made[name] + rest for name, rest in self.rests.values().items()}


class _Rests:
    """U V for every tensor; those of one shape are stacked, so each shape costs one product."""

    def __init__(self, like: Tensors, rank: int) -> None:
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name, tensor in like.items():
            shapes.setdefault(tuple(tensor.shape), []).append(name)
        self._groups = [_group(shape, names, rank, like[names[0]]) for shape, names in shapes.items()]

    def parameters(self) -> list[Tensor]:
        return [tensor for _, left, right in self._groups for tensor in (left, right) if tensor is not None]

    def values(self) -> Tensors:
        """Canonical name -> rest."""
        found: Tensors = {}
        for names, left, right in self._groups:
            found |= dict(zip(names, (left if right is None else left @ right).unbind(), strict=True))
        return found


def _group(
    shape: tuple[int, ...], names: list[str], rank: int, like: Tensor
) -> tuple[list[str], Tensor, Tensor | None]:
    """(names, U (n, rows, rank) or the full rest (n, *shape), V (n, rank, columns) or None)."""
    if len(shape) != 2:
        return names, torch.zeros((len(names), *shape), device=like.device, requires_grad=True), None
    right = torch.stack([torch.randn((rank, shape[1]), generator=generator_for(0, name)) for name in names])
    left = torch.zeros((len(names), shape[0], rank), device=like.device, requires_grad=True)
    return names, left, (right / math.sqrt(shape[1])).to(like.device).requires_grad_(True)
