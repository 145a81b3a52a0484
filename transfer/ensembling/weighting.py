"""Scores to ensemble weights: one for each module, at least 0, together 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from transfer.ensembling import WEIGHTINGS
from transfer.errors import ConfigError

if TYPE_CHECKING:
    from transfer.similarity.scores import Scores

TEMPERATURE = 0.5  # over standardised scores, so that one default fits estimators of any unit
FLAT = 1e-12  # scores that spread less than this share of their size do not tell modules apart


def needs_no_scores(how: str, top_k: int | None) -> bool:
    """Whether the weights are the same whatever the scores."""
    return how == "uniform" and top_k is None


@overload
def weigh(
    scores: Scores | Mapping[str, float],
    how: str = "softmax",
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    per_block: Literal[False] = False,
) -> dict[str, float]: ...


@overload
def weigh(
    scores: Scores | Mapping[str, float],
    how: str = "softmax",
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    per_block: bool = False,
) -> dict[str, Any]: ...


def weigh(
    scores: Scores | Mapping[str, float],
    how: str = "softmax",
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    per_block: bool = False,
) -> dict[str, Any]:
    """Turn similarity scores into ensemble weights.

    Scores are standardised over all modules (mean 0, standard deviation 1 with ddof 0), then the `top_k` closest are
    kept, then come the weights. Scores without spread, or of one module, tell nothing apart: whatever `how`, what is
    kept weighs the same.

    Args:
        scores: Similarity of each module to the target; higher is closer.
        how: "softmax", "uniform" over what is kept, or "best", the closest alone (of several closest, the first id).
        temperature: Of the softmax, above 0, in standard deviations of the scores. Near 0 keeps the closest module
            alone, a large value approaches a plain average.
        top_k: Modules kept; None keeps all. Of equal scores, the module whose id comes first is closer.
        per_block: Weigh every block by its own scores, each as above; `scores` must have been made so.
    Returns:
        Module id -> weight, in the order of `scores`; those not kept have 0. Per block: module id -> list of weights.
    Raises:
        ConfigError: there are no scores, one is not finite, a setting is outside its range, blocks have no scores, or
            `how` looks at examples (`fit_weights` runs those).
        UnknownNameError: no such `how`.
    Source:
        Softmax over scores with a temperature: Lv et al. 2023, aclanthology.org/2023.acl-short.24. There it is in the
        units of the scores; here they are standardised first.

    >>> {name: round(weight, 3) for name, weight in weigh({"mnli": 0.8, "sst2": 0.2}).items()}
    {'mnli': 0.982, 'sst2': 0.018}
    """
    if per_block:
        return _weigh_blocks(scores, how, temperature, top_k)
    table = dict(scores) if isinstance(scores, Mapping) else scores.as_dict()
    check_settings(how, temperature, top_k)
    rule = WEIGHTINGS.get(how)
    if isinstance(rule, type):
        raise ConfigError(
            f"{how!r} looks at the target's examples, scores alone do not do",
            hint=f"initialize(..., how={how!r}), or fit_weights in transfer.ensembling",
        )
    if not table:
        raise ConfigError("there are no scores to weigh", hint="score at least one module first")
    # Always computed in the same order: sums of floats would otherwise differ in the last digits.
    ids = sorted(table)
    values = np.array([table[module_id] for module_id in ids], dtype=np.float64)
    if not np.isfinite(values).all():
        worst = ids[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise ConfigError(f"the score of module {worst!r} is {table[worst]}", hint="leave it out, or score it again")
    closest = np.argsort(-values, kind="stable")[: top_k or len(ids)]
    weights, scaled = np.zeros(len(ids)), standardised(values)
    chosen = rule if scaled.any() else uniform  # without spread none is the best
    weights[closest] = chosen(scaled[closest], temperature)
    found = {module_id: float(weight) for module_id, weight in zip(ids, weights, strict=True)}
    return {module_id: found[module_id] for module_id in table}


def _weigh_blocks(
    scores: Scores | Mapping[str, float], how: str, temperature: float, top_k: int | None
) -> dict[str, list[float]]:
    blocks = getattr(scores, "blocks", None)
    if isinstance(scores, Mapping) or blocks is None:
        raise ConfigError("these scores are not per block", hint="score(..., per_block=True) makes some")
    columns = [
        weigh(dict(zip(scores.ids, map(float, column), strict=True)), how, temperature, top_k) for column in blocks.T
    ]
    return {module_id: [column[module_id] for column in columns] for module_id in scores.ids}


def mean_weights(weights: Mapping[str, float | Sequence[float]]) -> dict[str, float]:
    """One number for each module: its weight, or the mean of its weights over blocks.

    >>> mean_weights({"a": [0.25, 0.75], "b": [0.75, 0.25]})
    {'a': 0.5, 'b': 0.5}
    """
    return {module_id: float(np.mean(weight)) for module_id, weight in weights.items()}


def check_settings(how: str, temperature: float, top_k: int | None) -> None:
    """Refuse settings of `weigh` outside their range: ConfigError or UnknownNameError."""
    WEIGHTINGS.resolve(how)
    if not (temperature > 0 and np.isfinite(temperature)):
        raise ConfigError(
            f"temperature must be above 0, got {temperature}", hint="for the closest source alone: --how best"
        )
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k must be at least 1, got {top_k}", hint="leave it out to keep all source modules")


def standardised(values: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 (ddof 0); zeros where there is no spread. (modules,) to (modules,).

    >>> standardised(np.array([2.0, 4.0])).tolist()
    [-1.0, 1.0]
    """
    largest = float(np.abs(values).max())
    if largest == 0 or float(np.ptp(values / largest)) <= FLAT:
        return np.zeros(len(values))
    scaled = values / largest  # squares of values near the ends of what a float can hold would leave its range
    return np.asarray((scaled - scaled.mean()) / scaled.std())


def softmax(values: np.ndarray, temperature: float) -> np.ndarray:
    """exp(value / temperature), scaled to sum 1; values closest first."""
    # The top score is taken off first: exp overflows above 709.
    with np.errstate(over="ignore"):
        unscaled = np.exp((values - values.max()) / temperature)
    return np.asarray(unscaled / unscaled.sum())


def uniform(values: np.ndarray, temperature: float) -> np.ndarray:
    """The same for each."""
    return np.full(len(values), 1 / len(values))


def best(values: np.ndarray, temperature: float) -> np.ndarray:
    """All for the closest, which comes first."""
    return np.eye(1, len(values))[0]
