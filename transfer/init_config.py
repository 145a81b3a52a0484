"""InitConfig: what an initialization is made by, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from transfer.deltas import METHODS
from transfer.deltas.method import DeltaMethod
from transfer.ensembling import MERGES
from transfer.ensembling.choosing import AUTO
from transfer.ensembling.fitted import check_fit, fitted
from transfer.ensembling.weighting import check_settings
from transfer.errors import ConfigError
from transfer.similarity import ESTIMATORS
from transfer.similarity.scoring import check_per_block

# What auto chooses by itself, and the option of the command line that says it.
FLAGS = {
    "estimator": "--estimator",
    "how": "--weighting",
    "per_block": "--per-block",
    "guard": "--no-guard",
    "guard_steps": "--guard-steps",
}


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """How an initialization is made. The command line, a script and a test all build this same object."""

    method: str | DeltaMethod = "lora"
    estimator: str = "gradient:first-order"
    temperature: float = 0.5  # over standardised scores; near 0 keeps only the closest source
    top_k: int | None = None  # source modules kept; None keeps all
    how: str = "softmax"  # to weights, by name in WEIGHTINGS; from scores, or learned on the target's examples
    per_block: bool = False  # a weight per module and block: learned, or from an estimator that scores blocks
    budget: float | None = None  # seconds for a weighting that looks at examples
    merge: str = AUTO  # a rule; auto is linear for modules with a shared start, else svd for LoRA
    merge_options: Mapping[str, Any] = field(default_factory=dict)  # of the rule: rank, energy, density
    exclude: tuple[str, ...] = ()  # task names and ids left out, beside the target's own task
    include_own: bool = False  # take modules of the target's own task, too
    examples: int | None = 64  # rows of train, and at most as many of dev, for a target given by name; None takes all
    guard: bool = True
    guard_steps: int = 20
    batch_size: int = 16
    seed: int = 0  # of data order, of short tunes and of drawing examples
    force: bool = False  # take modules of other backbones
    auto: bool = False  # race several starts instead of the one that estimator and how say
    explain: bool = False  # measure dev along the guard's tunes, for the page

    def __post_init__(self) -> None:
        if isinstance(self.method, str):
            METHODS.resolve(self.method)
        ESTIMATORS.resolve(self.estimator)
        if self.merge != AUTO:
            MERGES.get(self.merge).with_options(self.merge_options)
        elif not self.auto:  # svd is all that it takes beside linear, which has no options
            MERGES.get("svd" if self.method_name == "lora" else "linear").with_options(self.merge_options)
        if self.per_block and fitted(self.how) is None:
            check_per_block(self.estimator)
        check_settings(self.how, self.temperature, self.top_k)
        if self.auto:
            check_auto(self)
        else:
            check_fit(self.how, self.merge, self.per_block, self.budget)
            self._check_used()
            if fitted(self.how) is not None:
                MERGES.get("linear").with_options(self.merge_options)
        for name in ("examples", "guard_steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")

    def _check_used(self) -> None:
        """Refuse settings of weights that would change nothing: ConfigError."""
        plain = {field_.name: field_.default for field_ in fields(InitConfig)}
        for name, idle in (("temperature", ("uniform", "best")), ("top_k", ("best",))):
            value = getattr(self, name)
            if self.how in idle and value != plain[name]:
                raise ConfigError(f"{name}={value!r} has no part for --weighting {self.how}", hint="leave it out")

    @property
    def method_name(self) -> str:
        """The method's name alone."""
        return self.method if isinstance(self.method, str) else self.method.method


def check_auto(config: InitConfig) -> None:
    """Refuse what has no part in a race: ConfigError names it."""
    plain = {field_.name: field_.default for field_ in fields(InitConfig)}
    for name in FLAGS:
        if getattr(config, name) != plain[name]:
            raise ConfigError(
                f"auto chooses for itself, so {name}={getattr(config, name)!r} has no part in it",
                hint=f"leave out --auto, or {FLAGS[name]}",
            )
    if config.merge == "regmean":
        raise ConfigError("auto does not read the inputs of the sources, which 'regmean' needs", hint="another merge")
    if config.merge_options and any(value is not None for value in config.merge_options.values()):
        given = [f"{name}={value}" for name, value in config.merge_options.items() if value is not None]
        raise ConfigError(
            "auto merges by a rule's own settings", found=", ".join(given), hint="leave out --auto, or these"
        )
    if config.budget is not None and not config.budget > 0:
        raise ConfigError(f"budget must be above 0 seconds, got {config.budget}")
