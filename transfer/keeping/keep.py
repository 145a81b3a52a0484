"""Keep: what every way of keeping the head start has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from transfer.backbones.encoding import Encoded
from transfer.errors import ConfigError

if TYPE_CHECKING:
    from transfer.keeping.work import Work
    from transfer.training.tuning import Tuned

Tensors = dict[str, Tensor]

WAYS = ("interpolate", "average", "l2-sp", "mixing")  # that auto can try


@dataclass(frozen=True, kw_only=True)
class KeepSettings:
    """What the ways of keeping choose among, each its own."""

    pulls: tuple[float, ...] = (0.001, 0.01, 0.1)  # l2-sp: strengths
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)  # interpolate: of the tuned delta; 0 and 1 are always tried
    soup_size: int = 3  # soups: data orders of one start, where no further starts are given
    mixing_rate: float = 0.02  # mixing: learning rate of the coefficients
    rest_rank: int = 2  # mixing-rest: of what is added to each tensor
    ways: tuple[str, ...] = WAYS  # auto: beside the steps of a plain tune

    def __post_init__(self) -> None:
        if not self.pulls or any(not pull > 0 for pull in self.pulls):
            raise ConfigError(f"pulls must be above 0, got {self.pulls}")
        if any(not 0 < share < 1 for share in self.shares):
            raise ConfigError(f"shares must lie between 0 and 1, got {self.shares}")
        if self.soup_size < 2:
            raise ConfigError(f"soup_size must be at least 2, got {self.soup_size}")
        if self.rest_rank < 1:
            raise ConfigError(f"rest_rank must be at least 1, got {self.rest_rank}")
        if not self.mixing_rate > 0:
            raise ConfigError(f"mixing_rate must be above 0, got {self.mixing_rate}")
        unknown = sorted(set(self.ways) - set(WAYS))
        if unknown:
            raise ConfigError(f"auto does not try {', '.join(unknown)}", found=", ".join(WAYS))


@dataclass
class Trial:
    """Candidates for the result of one run, and the calibrated loss of each where there is dev.

    Args:
        tensors: Label -> delta; in the order in which equal losses are preferred.
        losses: Label -> mean calibrated dev loss; without dev empty.
        history: Rows of the run, as `Tuned.history`.
        steps: Training steps in all.
        seconds: In all.
        notes: More for the card, plain JSON.
    """

    tensors: dict[str, Tensors] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)

    def count(self, tuned: Tuned, **tag: Any) -> None:
        """The history and the costs of one tune; `tag` tells its rows from those of others."""
        self.history += [{**row, **tag} for row in tuned.history]
        self.steps += tuned.steps
        self.seconds += tuned.seconds

    def take(self, other: Trial, prefix: str = "", **tag: Any) -> None:
        """The candidates and costs of another run, as `count`; of two candidates of one label the one here stays."""
        for label, tensors in other.tensors.items():
            if prefix + label not in self.tensors:
                self.add(prefix + label, tensors, other.losses.get(label))
        self.history += [{**row, **tag} for row in other.history]
        self.steps += other.steps
        self.seconds += other.seconds
        self.notes |= other.notes

    def add(self, label: str, tensors: Tensors, loss: float | None) -> None:
        """One more candidate."""
        self.tensors[label] = tensors
        if loss is not None:
            self.losses[label] = loss


class Keep(ABC):
    """A way of keeping. A new one is a class with `trial` and an entry in `KEEPS`.

    Attributes:
        name: As in `KEEPS`.
        chooses: True where it chooses by loss, so needs dev examples or folds.
        folds: True where what it chooses means the same in every fold, so cross-validation can choose it.
        starts: True where it tunes from several starts.
        sources: True where it mixes stored modules.
        optional: True where it does without further starts and modules, if there are none.
    """

    name: ClassVar[str]
    chooses: ClassVar[bool] = True
    folds: ClassVar[bool] = True
    starts: ClassVar[bool] = False
    sources: ClassVar[bool] = False
    optional: ClassVar[bool] = False

    def narrowed(self, settings: KeepSettings, chosen: str) -> KeepSettings:
        """Settings with which one more trial still makes the chosen candidate; others need not be made again."""
        return settings

    @abstractmethod
    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        """Train on `train`, and measure each candidate on `dev` if there is one.

        Args:
            work: What is tuned and how.
            train, dev: Encoded examples.
            part: Names this run among others of the same work, such as a fold; decides its checkpoint folder.
        """
