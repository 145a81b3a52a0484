"""Ways of keeping a head start, by name: those of `transfer finetune --keep`, and two forms of them.

`soup:starts` and `greedy-soup:starts` average what was tuned from three starts; for scratch, from three orders of data.
`NAME:folds` chooses by four-fold cross-validation over train and dev together.
"""

from __future__ import annotations

from benchmarks.strategies.problem import Problem
from transfer.deltas import Delta
from transfer.keeping import Kept, keep_start
from transfer.keeping.work import OtherStart

FOLDS = 4


def kept(problem: Problem, keep: str, start: Delta, rate: float, others: dict[str, Delta]) -> Kept:
    """Tune from a start in a way that may keep what it knows.

    Args:
        problem: The target; tunes that were made before are not made again, and their seconds are counted.
        keep: As above.
        start, rate: What is tuned, at which learning rate.
        others: Further starts by name, for soups of starts; empty takes orders of data instead.
    """
    name, _, form = keep.partition(":")
    further = [OtherStart(other, delta.tensors) for other, delta in others.items()] if form == "starts" else []
    work = problem.work(start, rate, further)
    return keep_start(work, name, problem.target.encoded, problem.dev, FOLDS if form == "folds" else None)
