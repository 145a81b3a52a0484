"""The learning rate that a tune takes where none is given."""

from __future__ import annotations

import pytest

from transfer.deltas import Adapter, BitFit, LoRA, Prefix, SoRA
from transfer.training import TuneSettings


@pytest.mark.parametrize("method", [LoRA(), Adapter(), Prefix()], ids=lambda method: method.method)
def test_many_passes_over_few_examples_take_a_third(method):
    settings = TuneSettings(steps=60, batch_size=16)
    assert settings.rate(method, 64) == pytest.approx(method.learning_rate / 3)
    assert settings.rate(method, 120) == method.learning_rate  # eight passes
    assert settings.rate(method, 119) == pytest.approx(method.learning_rate / 3)


@pytest.mark.parametrize("method", [SoRA(), BitFit()], ids=lambda method: method.method)
def test_others_keep_their_own(method):
    assert TuneSettings(steps=60).rate(method, 16) == method.learning_rate


def test_one_that_is_given_is_taken():
    assert TuneSettings(steps=60, learning_rate=0.5).rate(LoRA(), 16) == 0.5
