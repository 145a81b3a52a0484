"""What a delta is measured in: LoRA by the change of the weights it makes, other methods by their own tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from transfer.deltas.lora import LoRA
from transfer.deltas.method import DeltaMethod

Factors = dict[str, tuple[Tensor, Tensor]]


def in_weight_space(method: DeltaMethod) -> bool:
    """True where the delta is a low-rank change of weights, whose own tensors mean little one by one."""
    return isinstance(method, LoRA)


def weight_factors(method: DeltaMethod, tensors: Mapping[str, Tensor]) -> Factors:
    """place -> (A (rank, in), scale * B (out, rank)): the change of the weight at the place is their product."""
    assert isinstance(method, LoRA)
    places = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    return {place: method.factors(place, tensors) for place in places}


def differences(tensors: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """theta - theta_0, tensor by tensor, fp32."""
    return {name: value.float() - start[name].float() for name, value in tensors.items()}
