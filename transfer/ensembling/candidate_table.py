"""Candidates: every way to begin on a target, by name, from one prepared pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from transfer.ensembling.fitted import FitSettings, Pool, fit_weights
from transfer.ensembling.merging import merge
from transfer.ensembling.weighting import weigh
from transfer.errors import UnknownNameError


@dataclass(frozen=True, eq=False)
class Candidate:
    """A start for a target: its tensors, the weights behind it (none for scratch), what it cost and how it went."""

    name: str
    tensors: dict[str, Tensor] = field(repr=False)
    weights: dict[str, float]
    seconds: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)


def _scratch(pool: Pool, settings: FitSettings) -> Candidate:
    return Candidate("scratch", dict(pool.target.start), {})


def _scored(how: str) -> Callable[[Pool, FitSettings], Candidate]:
    def make(pool: Pool, settings: FitSettings) -> Candidate:
        weights = weigh(pool.scores, how, pool.temperature, pool.top_k)
        return Candidate(how, merge(pool.modules, weights).tensors, weights)

    return make


def _fitted(how: str, **changes: Any) -> Callable[[Pool, FitSettings], Candidate]:
    def make(pool: Pool, settings: FitSettings) -> Candidate:
        found = fit_weights(pool, how, replace(settings, **changes))
        return Candidate(how, found.tensors, found.weights, about=found.about)

    return make


CANDIDATES: dict[str, Callable[[Pool, FitSettings], Candidate]] = {
    "scratch": _scratch,
    "best": _scored("best"),
    "uniform": _scored("uniform"),
    "softmax": _scored("softmax"),
    "learned": _fitted("learned"),
    "learned:per-block": _fitted("learned", per_block=True),
    "search": _fitted("search"),
    "greedy": _fitted("greedy"),
    "cluster": _fitted("cluster"),
}


def candidates(
    pool: Pool, names: Iterable[str] | None = None, settings: FitSettings | None = None
) -> Iterator[Candidate]:
    """Make starts one by one, each when it is asked for; what several need is computed once.

    Args:
        pool: A prepared target with modules and scores.
        names: Of `CANDIDATES`; None is all of them.
        settings: Of those that look at examples; a budget is for each of them.
    Raises:
        UnknownNameError: no such candidate; before any is made.
    """
    wanted = list(CANDIDATES if names is None else names)
    for name in wanted:
        if name not in CANDIDATES:
            raise UnknownNameError(f"no candidate named {name!r}", found=", ".join(CANDIDATES))
    return (_timed(pool, name, settings or FitSettings()) for name in wanted)


def _timed(pool: Pool, name: str, settings: FitSettings) -> Candidate:
    begun = time.perf_counter()
    found = CANDIDATES[name](pool, settings)
    return replace(found, name=name, seconds=time.perf_counter() - begun)
