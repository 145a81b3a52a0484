"""Weightings that look at the target's examples: what they share, and `fit_weights`, which runs one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from transfer.backbones.encoding import Encoded
from transfer.ensembling import WEIGHTINGS
from transfer.ensembling.deadline import Deadline
from transfer.ensembling.mixture import Mixture
from transfer.ensembling.weighting import TEMPERATURE, weigh
from transfer.errors import ConfigError
from transfer.similarity.scores import Scores
from transfer.similarity.target import Target
from transfer.training.sampling import LengthBatches
from zoo import Module
from zoo.shared_starts import Starts
from zoo.tensors import digest


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How coefficients are found. Each weighting reads its own of these."""

    per_block: bool = False  # learned: a coefficient for each module and block
    budget: float | None = None  # seconds after which the best so far is taken; None is no limit
    seed: int = 0  # of the order of examples and of k-means
    steps: int = 40  # learned: at most
    learning_rate: float = 0.02  # learned: of Adam, in units of a weight
    pull: float = 0.02  # learned: L1 towards the similarity weights
    batch_size: int = 16
    eval_every: int = 5  # learned: steps between looks at dev
    patience: int = 3  # learned: looks at dev without a better loss before stopping
    evaluations: int = 100  # search: merges that are tried
    most: int = 20  # search: the closest modules, whose coefficients are searched
    bound: float = 1.5  # search: coefficients stay within +-bound
    penalty: float = 0.05  # search: on the mean absolute coefficient
    clusters: int | None = None  # cluster: None is the root of the number of modules, rounded

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "patience", "evaluations", "most", "clusters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("learning_rate", "bound"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("pull", "penalty"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        Deadline(self.budget)


@dataclass(frozen=True, eq=False)
class Fit:
    """Coefficients that were found.

    Args:
        weights: Module id -> coefficient, for all modules; where it differs by block, the mean over blocks.
        table: Module id -> a coefficient for each block, as `merge` takes them; None where there is one for all blocks.
        tensors: The merged delta, by canonical name.
        about: How it went, plain JSON.
        ended_early: The budget ended it.
    """

    weights: dict[str, float]
    table: dict[str, list[float]] | None
    tensors: dict[str, Tensor] = field(repr=False)
    about: dict[str, Any]
    ended_early: bool = False


@dataclass(frozen=True)
class Found:
    """What `FittedWeighting.fit` gives: coefficients (modules,) or (modules, blocks), and how it went."""

    coefficients: Tensor
    about: dict[str, Any]
    ended_early: bool = False


class Pool:
    """A target, modules that can be merged, and their scores: what every candidate is made of, prepared once.

    Args:
        target: Its training examples are learned from.
        modules: That can be merged tensor by tensor.
        scores: Of these modules.
        dev: Encoded dev examples to choose on; None encodes the task's.
        temperature, top_k: As for `weigh`; the weightings that look at examples take the `top_k` closest modules only.
    """

    def __init__(
        self,
        target: Target,
        modules: Sequence[Module],
        scores: Scores,
        dev: Sequence[Encoded] | None = None,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
    ) -> None:
        self.target, self.scores = target, scores
        self.modules = sorted(modules, key=lambda module: module.id)
        self.temperature, self.top_k = temperature, top_k
        self._dev = None if dev is None else list(dev)

    @cached_property
    def dev(self) -> list[Encoded]:
        """Encoded dev examples; may be empty."""
        task = self.target.task
        if self._dev is not None:
            return self._dev
        return self.target.backbone.encode(task.dev, task.fields) if len(task.dev) else []

    @property
    def unseen(self) -> list[Encoded]:
        """What to choose modules on: dev, or the training examples, which no module was trained on either."""
        return self.dev or self.target.encoded

    @cached_property
    def similarity_weights(self) -> dict[str, float]:
        """The softmax weights of all modules."""
        return weigh(self.scores, "softmax", self.temperature, self.top_k)

    @cached_property
    def kept(self) -> list[Module]:
        """The `top_k` closest modules, sorted by id."""
        if self.top_k is None:
            return self.modules
        closest = {module_id for module_id, _ in self.scores.top(self.top_k)}
        return [module for module in self.modules if module.id in closest]

    @cached_property
    def begin(self) -> Tensor:
        """Similarity weights of `kept` (modules,), fp32."""
        return torch.tensor([self.similarity_weights[module.id] for module in self.kept], dtype=torch.float32)

    @cached_property
    def mixture(self) -> Mixture:
        """`kept` stacked over the target's start."""
        return Mixture(self.target.backbone, self.target.method, self.kept, self.target.start)

    def unit(self, chosen: Sequence[int]) -> Tensor:
        """The plain average of some of `kept` (modules,)."""
        found = torch.zeros(len(self.kept))
        found[list(chosen)] = 1 / len(chosen)
        return found


class FittedWeighting(ABC):
    """A weighting that looks at examples. A new one is a file with `fit` and an entry in `WEIGHTINGS`.

    Attributes:
        name: As in `WEIGHTINGS`.
        any_weights: True where coefficients may be negative or not sum to 1, which needs the modules' shared start.
        blocks: True where a coefficient for each block can be asked for.
    """

    name: ClassVar[str]
    any_weights: ClassVar[bool] = False
    blocks: ClassVar[bool] = False

    def check(self, target: Target, modules: Sequence[Module]) -> None:
        """Refuse modules that it cannot take: those without the target's start, where weights may be any numbers.

        Raises:
            ConfigError: names a module whose start is another or is not known.
        """
        if not self.any_weights:
            return
        starts, ours = Starts(), digest(target.start)
        for module in modules:
            theirs = starts.of(module)
            if theirs != ours:
                why = "has no known start" if theirs is None else "was trained from another start"
                raise ConfigError(
                    f"{self.name!r} gives any weights, which only modules with one known start can take",
                    found=f"{module.id!r} {why}",
                    hint=f"--weighting greedy, whose weights sum to 1; or leave it out: --exclude {module.id}",
                )

    @abstractmethod
    def fit(self, pool: Pool, settings: FitSettings, deadline: Deadline) -> Found:
        """Coefficients of `pool.kept`; the same for the same seed, as long as the budget does not end it."""


def fitted(how: str) -> type[FittedWeighting] | None:
    """The class behind a weighting's name; None for one that needs scores alone."""
    found = WEIGHTINGS.get(how)
    return found if isinstance(found, type) and issubclass(found, FittedWeighting) else None


def check_fit(how: str, merge: str, per_block: bool, budget: float | None) -> None:
    """Refuse settings that a weighting does not take, before any work: ConfigError or UnknownNameError."""
    kind = fitted(how)
    takes = sorted(name for name in WEIGHTINGS.names() if (other := fitted(name)) is not None and other.blocks)
    if per_block and kind is not None and not kind.blocks:
        raise ConfigError(f"{how!r} has one weight for each module", found="per_block", hint=f"how={takes[0]!r}")
    if kind is None and budget is not None:
        raise ConfigError(f"{how!r} is computed at once and takes no budget", hint="leave the budget out")
    if kind is not None and merge not in ("linear", "auto"):
        raise ConfigError(
            f"{how!r} finds weights of the linear merge", found=f"merge {merge!r}", hint="leave the merge out"
        )
    Deadline(budget)


def check_sources(how: str, target: Target, modules: Sequence[Module]) -> None:
    """Refuse modules that a weighting cannot take, before it or an estimator looks at them."""
    kind = fitted(how)
    if kind is not None:
        kind().check(target, modules)


def fit_weights(pool: Pool, how: str, settings: FitSettings | None = None) -> Fit:
    """Find the weights of a pool's modules by a weighting that looks at examples.

    Args:
        pool: What to weigh.
        how: "learned", "search", "greedy" or "cluster".
        settings: Of the weighting.
    Raises:
        ConfigError: `how` needs scores alone, or does not take the settings, or the modules have no shared start.
        UnknownNameError: no such weighting.
    """
    settings = settings or FitSettings()
    check_fit(how, "linear", settings.per_block, settings.budget)
    kind = fitted(how)
    if kind is None:
        raise ConfigError(f"{how!r} looks at no examples", hint=f"weigh(scores, {how!r})")
    check_sources(how, pool.target, pool.kept)
    deadline = Deadline(settings.budget)
    found = kind().fit(pool, settings, deadline)
    values = found.coefficients.double().cpu().numpy()
    table = None
    if values.ndim == 2:
        table = {module.id: row.tolist() for module, row in zip(pool.kept, values, strict=True)}
        values = values.mean(axis=1)
    weights = dict.fromkeys((module.id for module in pool.modules), 0.0)
    weights |= {module.id: float(value) for module, value in zip(pool.kept, values, strict=True)}
    about = {
        "name": how,
        "settings": asdict(settings),
        "seconds": round(deadline.spent, 3),
        "ended_early": found.ended_early,
        **found.about,
    }
    tensors = pool.mixture.tensors(found.coefficients.to(pool.target.backbone.device))
    return Fit(weights, table, tensors, about, found.ended_early)


def batches(rows: Sequence[Encoded], batch_size: int, seed: int) -> Iterator[list[Encoded]]:
    """Batches without end, in an order that only the seed decides."""
    sampler = LengthBatches([row.length for row in rows], batch_size, seed)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for index in sampler:
            yield [rows[i] for i in index]
        epoch += 1


def finite(loss: float) -> float:
    """The loss, or infinity for what is no number, so that it is never the lowest."""
    return loss if np.isfinite(loss) else float("inf")
