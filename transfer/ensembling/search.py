"""search: black-box search of the mixing coefficients, the way of LoraHub."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import numpy as np
import torch

from transfer.ensembling.deadline import Deadline
from transfer.ensembling.fitted import FitSettings, FittedWeighting, Found, Pool, finite


class _OutOfBudgetError(Exception):
    """Ends the optimiser, which has no other way out of an evaluation; never leaves `fit`."""


class Search(FittedWeighting):
    """Minimises the loss on the training examples plus penalty * mean |c_j| without gradients, beginning at c = 0.

    Coefficients lie within +-bound. The 20 closest modules take part, as LoraHub takes 20; every merge that is tried
    costs one pass over the training examples, and the best of all tried is taken, c = 0 among them.

    The optimiser is scipy's COBYQA: it keeps to bounds, draws nothing at random, and builds a quadratic model from few
    evaluations. LoraHub's own, nevergrad, would be a dependency for this alone, and population methods such as
    differential evolution spend a hundred evaluations on their first generations.

    Source: Huang et al. 2023, arxiv.org/abs/2307.13269. There A and B are summed as published; here the sum is over
    differences from the shared start, and dev examples are left alone.
    """

    name: ClassVar[str] = "search"
    any_weights: ClassVar[bool] = True

    def fit(self, pool: Pool, settings: FitSettings, deadline: Deadline) -> Found:
        from scipy.optimize import Bounds, minimize  # type: ignore[import-untyped]

        closest = [module_id for module_id, _ in pool.scores.top(len(pool.scores))]
        places = {module.id: place for place, module in enumerate(pool.kept)}
        taken = [places[module_id] for module_id in closest if module_id in places][: settings.most]
        mixture = pool.mixture
        best, lowest, tried = np.zeros(len(taken)), float("inf"), 0
        early = False

        def full(found: np.ndarray) -> torch.Tensor:
            coefficients = torch.zeros(len(pool.kept))
            coefficients[taken] = torch.from_numpy(np.asarray(found, dtype=np.float32))
            return coefficients

        with mixture.acting() as acting:

            def objective(found: np.ndarray) -> float:
                nonlocal best, lowest, tried, early
                if tried >= settings.evaluations:
                    raise _OutOfBudgetError
                if deadline.over and tried:
                    early = True
                    raise _OutOfBudgetError
                merged = mixture.merged(full(found).to(mixture.base.device))
                loss = acting.measured(mixture.named(merged), pool.target.encoded).loss
                value = finite(loss) + settings.penalty * float(np.abs(found).mean())
                tried += 1
                if value < lowest:
                    best, lowest = np.array(found, dtype=np.float64), value
                return min(value, 1e6)  # the model of the optimiser needs numbers

            bounds = Bounds(np.full(len(taken), -settings.bound), np.full(len(taken), settings.bound))
            options = {"maxfev": settings.evaluations, "initial_tr_radius": 0.5, "final_tr_radius": 1e-3}
            with contextlib.suppress(_OutOfBudgetError):
                minimize(objective, np.zeros(len(taken)), method="COBYQA", bounds=bounds, options=options)
        return Found(full(best), {"evaluations": tried, "objective": lowest, "searched": len(taken)}, early)
