"""greedy: a soup of modules, taken in one by one while dev does not get worse."""

from __future__ import annotations

from typing import ClassVar

from transfer.ensembling.deadline import Deadline
from transfer.ensembling.fitted import FitSettings, FittedWeighting, Found, Pool, finite


class Greedy(FittedWeighting):
    """The plain average of modules, chosen greedily.

    Each module is measured by itself; then, the best first, each is taken into the average if the loss of the average
    is no higher with it. Measured on dev, or without dev examples on the training examples, which no module has seen.
    When the budget ends while modules are measured, the rest has no part.

    Source: Wortsman et al. 2022, arxiv.org/abs/2203.05482 (greedy soup), with losses in place of accuracies.
    """

    name: ClassVar[str] = "greedy"

    def fit(self, pool: Pool, settings: FitSettings, deadline: Deadline) -> Found:
        mixture, rows = pool.mixture, pool.unseen
        order = sorted(range(len(pool.kept)), key=lambda place: (-pool.begin[place].item(), place))
        losses: dict[int, float] = {}
        early = False
        with mixture.acting() as acting:

            def loss_of(chosen: list[int]) -> float:
                merged = mixture.merged(pool.unit(chosen).to(mixture.base.device))
                return finite(acting.measured(mixture.named(merged), rows).calibrated_loss)

            for place in order:  # the closest first, so that a budget leaves out those that promise least
                if losses and deadline.over:
                    early = True
                    break
                losses[place] = loss_of([place])
            ranked = sorted(losses, key=lambda place: (losses[place], place))
            chosen, lowest = ranked[:1], losses[ranked[0]]
            for place in ranked[1:]:
                if deadline.over:
                    early = True
                    break
                found = loss_of([*chosen, place])
                if found <= lowest:
                    chosen, lowest = [*chosen, place], found
        about = {
            "chosen_on": "dev" if pool.dev else "train",
            "loss": lowest,
            "chosen": [pool.kept[place].id for place in chosen],
            "alone": {pool.kept[place].id: losses[place] for place in ranked},
        }
        return Found(pool.unit(chosen), about, early)
