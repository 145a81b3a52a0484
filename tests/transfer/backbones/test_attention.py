"""Attention in fp32 inside bf16 training on a CPU: what it changes, and where it stands aside."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from transfer.backbones import attention, load_backbone
from transfer.backbones.attention import PreciseAttention

EXAMPLES = [
    {"input": f"a film that was {word}", "choices": ["bad", "good"], "label": i % 2}
    for i, word in enumerate(["dull", "great", "poor", "superb"])
]


def tensors(dtype=torch.bfloat16):
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 8).to(dtype).requires_grad_() for _ in range(3)]


def test_it_is_the_fp32_result_in_bf16():
    q, k, v = tensors()
    mask = torch.zeros(2, 1, 5, 5, dtype=torch.bfloat16)
    mask[..., 3:] = -torch.inf
    with torch.autocast("cpu", dtype=torch.bfloat16), PreciseAttention():
        found = scaled_dot_product_attention(q, k, value=v, attn_mask=mask)
    expected = scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.to(torch.bfloat16), rtol=0, atol=0)
    found.float().sum().backward()
    assert q.grad.dtype == torch.bfloat16
    assert float(q.grad.float().norm()) > 0


def test_other_types_and_functions_are_left_alone():
    q, k, v = tensors(torch.float32)
    with PreciseAttention():
        found = scaled_dot_product_attention(q, k, v)
        assert (torch.ones(2, dtype=torch.bfloat16) + 1).dtype == torch.bfloat16
    torch.testing.assert_close(found, scaled_dot_product_attention(q, k, v), rtol=0, atol=0)


@pytest.fixture(scope="module")
def backbone():
    made = load_backbone()
    made.precision = "bf16"
    return made


def raised(backbone, monkeypatch):
    """How many tensors are turned to fp32 in one forward pass."""
    seen = []
    rows = backbone.encode(EXAMPLES)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_raised", lambda value: seen.append(value) or value)
        backbone(**backbone.collate(rows, train=True))
    return len(seen)


def test_training_has_it_and_scoring_does_not(backbone, monkeypatch):
    backbone.train()
    assert raised(backbone, monkeypatch)
    with torch.no_grad():
        assert not raised(backbone, monkeypatch)


def test_gradient_checkpointing_goes_without_it(monkeypatch):
    backbone = load_backbone()
    backbone.precision = "bf16"
    backbone.model.gradient_checkpointing_enable()
    backbone.train()
    assert not raised(backbone, monkeypatch)


def test_losses_stay_those_of_bf16(backbone):
    rows = backbone.encode(EXAMPLES)
    with torch.no_grad():
        plain = backbone(**backbone.collate(rows, train=True))["loss"]
    with_it = backbone(**backbone.collate(rows, train=True))["loss"]
    backbone.precision = "fp32"
    exact = backbone(**backbone.collate(rows, train=True))["loss"]
    backbone.precision = "bf16"
    assert float(with_it) == pytest.approx(float(exact), abs=2e-2)
    assert float(with_it) == pytest.approx(float(plain), abs=2e-2)
