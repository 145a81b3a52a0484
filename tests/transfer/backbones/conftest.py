"""Examples of several kinds, and one tiny backbone of each architecture."""

from __future__ import annotations

import pytest
import tiny


@pytest.fixture(scope="session")
def backbones():
    """One of each architecture; tests leave them as they are."""
    return {arch: tiny.tiny_backbone(arch) for arch in tiny.ARCHITECTURES}


@pytest.fixture
def backbone(request, backbones):
    """Of the architecture that the test is parametrized with."""
    return backbones[request.param]


@pytest.fixture
def mixed_rows():
    """Inputs of many lengths, choices of many lengths and numbers, and an empty input."""
    return [
        {"input": "text: a warm film", "choices": ["negative", "positive"], "label": 1},
        {
            "input": "question: " + "is the harbour open " * 6,
            "choices": ["no", "yes", "only in winter", "a"],
            "label": 2,
        },
        {"input": "x", "choices": ["entailment", "neutral", "contradiction"], "label": 0},
        {"input": "", "choices": ["no", "yes"], "label": 0},
        {"input": "premise: A man plays a guitar.", "choices": ["music"], "label": 0},
        {"input": "text: the plot is thin and the jokes are tired", "choices": ["yes", "no"], "label": 1},
        {"input": "text: " + "warm and funny " * 9, "choices": ["negative", "positive"]},
    ]
