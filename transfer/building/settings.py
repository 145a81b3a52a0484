"""Settings of a build."""

from __future__ import annotations

from dataclasses import dataclass, field

from transfer.errors import ConfigError
from transfer.training.settings import TuneSettings

CRITERION = 1.65  # paired standard errors: one-sided 95%


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How modules are trained and which are kept."""

    backbone: str = "embedded"
    kind: str = "auto"
    max_length: int = 128
    precision: str = "auto"
    methods: tuple[str, ...] = ("lora", "adapter", "prefix")
    tune: TuneSettings = field(
        default_factory=lambda: TuneSettings(steps=160, batch_size=16, eval_every=40, patience=2)
    )
    start_seed: int = 0  # of the start that all modules of a method share
    criterion: float = CRITERION
    most_tasks: int | None = None  # tasks kept over all methods together, the clearest; None keeps all that pass
    commercial: bool = True  # leave out tasks whose licence forbids commercial use
    half: bool = True  # store fp16, and measure what is stored

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(dict.fromkeys(self.methods)))
        if not self.methods:
            raise ConfigError("no method to build", hint="--methods lora,adapter,prefix")
        if self.most_tasks is not None and self.most_tasks < 1:
            raise ConfigError(f"most_tasks must be at least 1, got {self.most_tasks}")
