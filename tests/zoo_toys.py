"""Small modules for the tests of the store, made on the spot; no backbone is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from zoo import Card, Module, Signature

FINGERPRINT = "a" * 64
PLACES = tuple(f"encoder.layer.{layer}.attention.self" for layer in range(2))
WIDTH = 16


def settings_of(method: str) -> dict[str, Any]:
    """Settings of a small module, as its card has them."""
    if method in ("lora", "sora"):
        places = [f"{place}.{part}" for place in PLACES for part in ("query", "value")]
        return {"rank": 2, "alpha": 4, "dropout": 0.0, "where": ["attn.q", "attn.v"], "places": places}
    if method == "adapter":
        places = [f"encoder.layer.{layer}.output.dense" for layer in range(2)]
        return {"bottleneck": 2, "activation": "gelu_new", "where": ["ff.w2"], "places": places}
    if method == "low-rank-adapter":
        return {"reduction": 8, "rank": 3, "where": ["attn"], "places": list(PLACES)}
    if method == "compacter":
        return {"reduction": 4, "division": 4, "rank": 3, "shared_rule": False, "places": list(PLACES)}
    if method == "prefix":
        return {
            "length": 3,
            "position_shift": True,
            "reparameterisation": None,
            "where": ["attn"],
            "heads": 4,
            "head_width": 4,
            "places": list(PLACES),
        }
    if method == "soft-prompt":
        return {"length": 3, "init": "random", "where": [], "places": ["embeddings.word_embeddings"]}
    if method == "bitfit":
        return {"where": ["attn.q"], "places": [f"{place}.query" for place in PLACES]}
    return {"places": list(PLACES)}


def shapes_of(method: str, settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape."""
    locals_: dict[str, dict[str, tuple[int, ...]]] = {
        "lora": {"lora_A": (2, WIDTH), "lora_B": (WIDTH, 2)},
        "sora": {"lora_A": (2, WIDTH), "lora_B": (WIDTH, 2), "lora_gate": (2,)},
        "adapter": {
            "adapter_down.weight": (2, WIDTH),
            "adapter_down.bias": (2,),
            "adapter_up.weight": (WIDTH, 2),
            "adapter_up.bias": (WIDTH,),
        },
        "low-rank-adapter": {
            "low_rank_down.left": (2, 3),
            "low_rank_down.right": (3, WIDTH),
            "low_rank_down.bias": (2,),
            "low_rank_up.left": (WIDTH, 3),
            "low_rank_up.right": (3, 2),
            "low_rank_up.bias": (WIDTH,),
        },
        "compacter": {
            "compacter_rule": (4, 4, 4),
            "compacter_down.left": (4, 4, 3),
            "compacter_down.right": (4, 3, 2),
            "compacter_down.bias": (8,),
            "compacter_up.left": (4, 2, 3),
            "compacter_up.right": (4, 3, 4),
            "compacter_up.bias": (WIDTH,),
        },
        "prefix": {"prefix_key": (3, WIDTH), "prefix_value": (3, WIDTH)},
        "bitfit": {"bitfit_bias": (WIDTH,)},
        "soft-prompt": {"prompt_embeddings": (3, WIDTH)},
    }
    return {
        f"{place}.{name}": shape
        for place in settings["places"]
        for name, shape in locals_.get(method, {"weight": (WIDTH,)}).items()
    }


def tensors_of(method: str, seed: int = 0, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Random tensors of a small module."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes_of(method, settings_of(method))
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def card_of(task: str = "boolq", method: str = "lora", **fields: Any) -> Card:
    """A card with all that is asked for, and what else is given."""
    chosen = {
        "task": task,
        "method": method,
        "settings": settings_of(method),
        "backbone": "tiny",
        "fingerprint": FINGERPRINT,
        "category": "questions",
        "license": "cc-by-4.0",
    }
    return Card(**{**chosen, **fields})


def signature_of(seed: int = 0, width: int = 8, n: int = 5) -> Signature:
    """Random arrays of all kinds."""
    random = np.random.default_rng(seed)
    examples = random.normal(size=(n, width))
    examples /= np.linalg.norm(examples, axis=1, keepdims=True)
    return Signature(
        centroid=examples.mean(axis=0),
        variance=examples.var(axis=0),
        examples=examples,
        weight_sketch=random.normal(size=1024),
        gradient_sketch=random.normal(size=1024),
        block_norms=random.random(2),
    )


def module_of(
    task: str = "boolq",
    method: str = "lora",
    seed: int = 0,
    signature: Signature | None = None,
    start: bool = False,
    **fields: Any,
) -> Module:
    """A module in memory; `start` gives it the start that all modules of the method share."""
    shared = tensors_of(method, seed=999) if start else None
    return Module.new(card_of(task, method, **fields), tensors_of(method, seed), signature, shared)
