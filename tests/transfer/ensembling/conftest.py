"""Modules in memory without a model: the settings on their cards name the places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from zoo import Card, Module

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2, "alpha": 4, "places": ["a", "b"]},
    "sora": {"rank": 2, "alpha": 4, "places": ["a", "b"]},
    "adapter": {"bottleneck": 2, "places": ["a", "b"]},
    "parallel-adapter": {"bottleneck": 2, "places": ["a", "b"], "input_places": ["c", "d"]},
    "low-rank-adapter": {"rank": 2, "places": ["a", "b"]},
    "compacter": {"division": 2, "rank": 1, "shared_rule": False, "places": ["a", "b"]},
    "prefix": {"length": 2, "heads": 2, "head_width": 2, "places": ["a", "b"]},
    "bitfit": {"places": ["a", "b"]},
    "soft-prompt": {"length": 2, "places": ["a", "b"]},
}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "lora": {"lora_A": (2, 4), "lora_B": (3, 2)},
    "sora": {"lora_A": (2, 4), "lora_B": (3, 2), "lora_gate": (2,)},
    "adapter": {
        "adapter_down.weight": (2, 4),
        "adapter_down.bias": (2,),
        "adapter_up.weight": (4, 2),
        "adapter_up.bias": (4,),
    },
    "parallel-adapter": {
        "adapter_down.weight": (2, 5),
        "adapter_down.bias": (2,),
        "adapter_up.weight": (4, 2),
        "adapter_up.bias": (4,),
    },
    "low-rank-adapter": {
        "low_rank_down.left": (3, 2),
        "low_rank_down.right": (2, 4),
        "low_rank_down.bias": (3,),
        "low_rank_up.left": (4, 2),
        "low_rank_up.right": (2, 3),
        "low_rank_up.bias": (4,),
    },
    "compacter": {
        "compacter_rule": (2, 2, 2),
        "compacter_down.left": (2, 2, 1),
        "compacter_down.right": (2, 1, 1),
        "compacter_down.bias": (2,),
        "compacter_up.left": (2, 1, 1),
        "compacter_up.right": (2, 1, 2),
        "compacter_up.bias": (4,),
    },
    "prefix": {"prefix_key": (2, 4), "prefix_value": (2, 4)},
    "bitfit": {"bitfit_bias": (4,)},
    "soft-prompt": {"prompt_embeddings": (2, 4)},
}


class Makes:
    """Makes modules of a method; `seed` decides their tensors."""

    def tensors(self, method: str = "lora", seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            f"{place}.{name}": torch.randn(shape, generator=generator)
            for place in ("a", "b")
            for name, shape in SHAPES[method].items()
        }

    def module(
        self,
        task: str,
        seed: int,
        method: str = "lora",
        start: Mapping[str, torch.Tensor] | int | None = 0,
        tensors: Mapping[str, torch.Tensor] | None = None,
        settings: Mapping[str, Any] | None = None,
        **card: Any,
    ) -> Module:
        """A module; `start` is a seed, tensors, or None for an unknown one."""
        fields = {"settings": {**SETTINGS[method], **(settings or {})}, "backbone": "toy", "fingerprint": "0" * 64}
        given = self.tensors(method, start) if isinstance(start, int) else start
        return Module.new(
            Card(**{"task": task, "method": method, **fields, **card}),
            tensors if tensors is not None else self.tensors(method, seed),
            start=given,
        )

    def modules(self, n: int = 3, method: str = "lora", start: int | None = 0) -> list[Module]:
        return [self.module(f"task-{number}", 100 + number, method, start) for number in range(n)]


@pytest.fixture(scope="session")
def makes() -> Makes:
    return Makes()
