"""SoRA: LoRA with a gate on every rank, which training drives to exactly zero where the rank is not needed.

Source: Ding et al. 2023, aclanthology.org/2023.emnlp-main.252, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from transfer.deltas.attached import Attached
from transfer.deltas.lora import LoRA, LoRASite
from transfer.deltas.site import Site
from transfer.errors import ConfigError

Threshold = Literal["soft", "published-code"]
GATE = "lora_gate"


@dataclass(frozen=True, kw_only=True)
class SoRA(LoRA):
    """y = W x + alpha / rank * B (g * A x); g is (rank,). Starts as the bare backbone: B is zero, g is normal.

    After each step of the optimiser the gates take a proximal step of the L1 norm: every |g| shrinks by `xi`, and what
    is below it becomes zero. A gate that training does not hold up is gone after |g| / `xi` steps; one that is gone
    comes back only where a step of the optimiser is longer than `xi`. `prune` makes a plain LoRA of what is left.

    Args:
        rank, alpha, dropout, ranks, alphas: As LoRA's; the rank is the largest that a place can keep.
        where: By default the six linear layers of attention and feed-forward part, as in the paper.
        xi: Of the proximal step, at least 0; 0 trains all gates (a warm start).
        threshold: "soft" is the paper's operator, sign(g) max(|g| - xi, 0). "published-code" is what the authors'
            code computes: it looks for |g| < xi after shrinking, and so zeroes all that was below 2 xi.
        scale_by_rate: Multiply `xi` by the gates' learning rate at that step, as a proximal gradient step does.
        gate_learning_rate: Of the gates; None takes that of A and B. Both follow the same decay.
        penalty: Adds `penalty` times the mean |g| over all gates to the loss, as the authors' runs do beside `xi`.
    """

    method: ClassVar[str] = "sora"

    where: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "attn.proj", "ff.w1", "ff.w2")
    xi: float = 3e-4
    threshold: Threshold = "soft"
    scale_by_rate: bool = False
    gate_learning_rate: float | None = None
    penalty: float = 0.0

    def check(self) -> None:
        super().check()
        for name in ("xi", "penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.threshold not in get_args(Threshold):
            raise ConfigError(f"threshold must be one of {', '.join(get_args(Threshold))}, got {self.threshold!r}")
        if self.gate_learning_rate is not None and not self.gate_learning_rate > 0:
            raise ConfigError(f"gate_learning_rate must be above 0, got {self.gate_learning_rate}")

    def direct(self) -> SoRA:
        return replace(
            self, xi=0.0, threshold="soft", scale_by_rate=False, gate_learning_rate=None, penalty=0.0, dropout=0.0
        )

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        return {**super().local_shapes(place, module), GATE: (self.rank_at(place),)}

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        if name == GATE:
            tensor.normal_(generator=generator)
        else:
            super().fill(name, tensor, generator)

    def factors(self, place: str, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = super().factors(place, tensors)
        return a, b * tensors[f"{place}.{GATE}"].float()

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return SoRASite(place, tensors, self.scale(place), self.dropout)

    def own_rates(self, rate: float) -> dict[str, float]:
        return {GATE: self.gate_learning_rate or rate}

    def loss(self, attached: Attached) -> torch.Tensor | None:
        if not self.penalty:
            return None
        gates = gates_of(attached)  # a model may be spread over several devices
        return self.penalty * torch.cat([gate.to(gates[0].device) for gate in gates]).abs().mean()

    @torch.no_grad()
    def after_step(self, attached: Attached, rates: Mapping[str, float]) -> None:
        xi = self.xi * rates[GATE] if self.scale_by_rate else self.xi
        if not xi:
            return
        shrink = soft_threshold if self.threshold == "soft" else published_threshold
        for gate in gates_of(attached):
            gate.copy_(shrink(gate, xi))


class SoRASite(LoRASite):
    """A, gate and B beside one linear layer."""

    lora_gate: nn.Parameter

    def strength(self) -> torch.Tensor:
        return self.lora_gate * self.scale


def gates_of(attached: Attached) -> list[torch.Tensor]:
    """The gates as they are trained, one (rank,) for each place."""
    return [site.lora_gate for site in attached.sites if isinstance(site, SoRASite)]


def soft_threshold(gate: torch.Tensor, xi: float) -> torch.Tensor:
    """sign(g) max(|g| - xi, 0): the proximal operator of xi times the L1 norm.

    >>> soft_threshold(torch.tensor([-2.0, -0.5, 0.0, 1.0, 1.5]), 1.0).tolist()
    [-1.0, 0.0, 0.0, 0.0, 0.5]
    """
    return gate - gate.clamp(-xi, xi)


def published_threshold(gate: torch.Tensor, xi: float) -> torch.Tensor:
    """What the authors' code computes: shrunk by xi where |g| > xi, and then zero where less than xi is left.

    >>> published_threshold(torch.tensor([-2.5, -1.5, -0.5, 1.0, 1.5, 2.5]), 1.0).tolist()
    [-1.5, 0.0, 0.0, 1.0, 0.0, 1.5]
    """
    shrunk = torch.where(gate.abs() > xi, soft_threshold(gate, xi), gate)
    return torch.where(shrunk.abs() < xi, torch.zeros_like(shrunk), shrunk)
