"""learned: mixing coefficients trained by gradient on the target's examples, through the merged delta."""

from __future__ import annotations

from typing import ClassVar

import torch

from transfer.ensembling.deadline import Deadline
from transfer.ensembling.fitted import FitSettings, FittedWeighting, Found, Pool, batches, finite
from transfer.errors import ConfigError


class Learned(FittedWeighting):
    """Adam on the coefficients of theta_0 + sum_j c_j (theta_j - theta_0), beginning at the similarity weights c_0.

    The loss is the mean over a batch of training examples plus pull * |c - c_0|_1. The L1 part acts after each step as
    soft thresholding of c - c_0 by pull * learning rate (proximal gradient), so a coefficient that the examples say
    little about stays at its similarity weight to the last bit. Dev is measured every few steps; the coefficients of
    the lowest calibrated dev loss are taken, those of step 0 among them. Without dev examples the last step is taken.
    With `per_block` there is a coefficient for each module and block.
    """

    name: ClassVar[str] = "learned"
    any_weights: ClassVar[bool] = True
    blocks: ClassVar[bool] = True

    def fit(self, pool: Pool, settings: FitSettings, deadline: Deadline) -> Found:
        mixture = pool.mixture
        begin = pool.begin.to(mixture.base.device)
        if settings.per_block and not mixture.blocks:
            raise ConfigError(
                "these modules lie in no block of the backbone, so there is nothing to weigh block by block",
                found=f"{mixture.names[0]}, for example",
                hint="leave per_block out",
            )
        if settings.per_block:
            begin = begin[:, None].expand(-1, mixture.blocks).clone()
        now = begin.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([now], lr=settings.learning_rate)
        rows = batches(pool.target.encoded, settings.batch_size, settings.seed)
        best, best_step, lowest, stale, step = begin.clone(), 0, float("inf"), 0, 0
        history: list[dict[str, float]] = []
        with mixture.acting() as acting:
            while True:
                if pool.dev and (step % settings.eval_every == 0 or step == settings.steps):
                    found = acting.measured(mixture.named(mixture.merged(now.detach())), pool.dev)
                    loss = found.calibrated_loss
                    history.append({"step": step, "loss": found.loss, "calibrated": loss})
                    stale += 1
                    if finite(loss) < lowest:
                        best, best_step, lowest, stale = now.detach().clone(), step, loss, 0
                if step >= settings.steps or stale >= settings.patience or deadline.over:
                    break
                optimiser.zero_grad()
                acting.backward(mixture.named(mixture.merged(now)), next(rows))
                optimiser.step()
                shrink_towards(now, begin, settings.pull * settings.learning_rate)
                step += 1
        early = deadline.over and step < settings.steps and stale < settings.patience
        if not pool.dev:
            best, best_step = now.detach(), step
        return Found(best.cpu(), {"history": history, "steps": step, "best_step": best_step}, early)


@torch.no_grad()
def shrink_towards(values: torch.Tensor, centre: torch.Tensor, by: float) -> None:
    """Soft thresholding, in place: what is nearer to the centre than `by` becomes the centre, the rest moves by it."""
    moved = values - centre
    values.copy_(torch.where(moved.abs() <= by, centre, values - by * moved.sign()))
