"""What the tests of deltas share: inputs with padding, outputs, and tensors that are no start."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from transfer.deltas import Attached


def make_inputs(arch: str) -> dict[str, torch.Tensor]:
    """Three texts of up to nine tokens, the second padded: behind for encoders, in front for decoders; or images."""
    generator = torch.Generator().manual_seed(7)
    if arch in tiny.VISION:
        return {"pixel_values": torch.randn(3, 3, 16, 16, generator=generator)}
    ids = torch.randint(5, 200, (3, 9), generator=generator)
    mask = torch.ones(3, 9, dtype=torch.long)
    padding = slice(0, 3) if arch in tiny.CAUSAL else slice(6, 9)
    ids[1, padding], mask[1, padding] = 1, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if arch in tiny.SEQ2SEQ:
        inputs["decoder_input_ids"] = torch.randint(5, 200, (3, 5), generator=generator)
    return inputs


def run_model(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits, or hidden states, of the real tokens: (tokens, width)."""
    output = model(**inputs)
    values = output.logits if hasattr(output, "logits") else output.last_hidden_state
    if "pixel_values" in inputs:
        return values.flatten(0, 1)
    real = inputs["attention_mask"].bool() if "decoder_input_ids" not in inputs else torch.ones(3, 5, dtype=torch.bool)
    return values[real]


def disturb(attached: Attached, seed: int = 0) -> dict[str, torch.Tensor]:
    """Replace the start with clearly different values, as training would; returns a copy of them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(tensor.shape, generator=generator) * 0.3 for name, tensor in attached.state_dict().items()
    }
    attached.load_state_dict(tensors)
    return tensors


@pytest.fixture
def inputs_for():
    return make_inputs


@pytest.fixture
def outputs():
    return run_model


@pytest.fixture
def disturbed():
    return disturb
