"""A target and a handful of modules on tiny backbones, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch
from datasets import Dataset

from transfer.deltas import METHODS
from transfer.similarity.signatures import module_signature, task_signature
from transfer.similarity.target import Target
from transfer.tasks import Task
from zoo import Card, Module, Signature


class Toys:
    """Makes what a test of an estimator needs."""

    def task(self, n: int = 10, seed: int = 0, name: str = "toy", **changes: Any) -> Task:
        split = Dataset.from_list(tiny.sentiment_rows(n, seed))
        return Task(**{"name": name, "kind": "classification", "train": split, "dev": split, "test": split, **changes})

    def card(self, backbone: Any, method: Any, task: str, **changes: Any) -> Card:
        settings = method.settings(backbone.model)
        fields = {"backbone": backbone.name, "fingerprint": backbone.fingerprint, "settings": settings}
        return Card(**{"task": task, "method": method.method, **fields, **changes})

    def module(
        self,
        backbone: Any,
        method: Any,
        tensors: Any,
        task: str = "source",
        signature: Signature | None = None,
        start: Any = None,
        **changes: Any,
    ) -> Module:
        return Module.new(self.card(backbone, method, task, **changes), dict(tensors), signature, start)

    def moved(self, start: Any, by: float, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {name: value + by * torch.randn(value.shape, generator=generator) for name, value in start.items()}

    def modules(self, backbone: Any, method: Any, n: int = 3, by: float = 0.2) -> list[Module]:
        """Modules at random distances from one start, with signatures of made-up source tasks."""
        start, found = method.draw(backbone.model), []
        for number in range(n):
            task = self.task(8, seed=10 + number, name=f"source-{number}")
            tensors = self.moved(start, by, seed=number)
            encoded = backbone.encode(task.train)
            signature = module_signature(backbone, encoded, method, tensors, start)
            signature = signature.merge(task_signature(backbone, task, seed=number))
            found.append(self.module(backbone, method, tensors, task.name, signature, start))
        return found

    def target(
        self, backbone: Any, modules: Sequence[Module], method: Any = "lora", n: int = 10, **task: Any
    ) -> Target:
        return Target.for_modules(self.task(n, **task), backbone, modules, method)


@pytest.fixture(scope="session")
def toys() -> Toys:
    return Toys()


@pytest.fixture(scope="session")
def world(toys):
    """(backbone, method, modules) of an architecture and a method, made once; tests leave them as they are."""
    kept: dict[tuple[str, str], Any] = {}

    def make(arch: str = "bert", name: str = "lora") -> Any:
        if (arch, name) not in kept:
            backbone, method = tiny.tiny_backbone(arch), METHODS.get(name)()
            kept[arch, name] = backbone, method, toys.modules(backbone, method)
        return kept[arch, name]

    return make
