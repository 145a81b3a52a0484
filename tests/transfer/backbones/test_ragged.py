"""Rows of unequal lengths are read in groups, and nothing else changes."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from transfer.backbones import encoder
from transfer.backbones.ragged import groups
from transfer.deltas import METHODS
from transfer.errors import BackboneError

LONG = "text: " + "warm and funny " * 60
ROWS = [{"input": text, "choices": ["no", "yes"], "label": 1} for text in ("text: a", LONG, "text: so so", LONG[:300])]


def cost(parts, lengths, pass_cost):
    return sum(pass_cost + len(part) * max(lengths[row] for row in part) for part in parts)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7), pass_cost=st.integers(0, 60))
def test_no_division_into_groups_costs_less(lengths, pass_cost):
    found = groups(lengths, pass_cost)
    assert sorted(int(row) for part in found for row in part) == list(range(len(lengths)))
    by_length = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    divisions = (
        [by_length[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(lengths)])]
        for count in range(len(lengths))
        for cuts in itertools.combinations(range(1, len(lengths)), count)
    )
    assert cost(found, lengths, pass_cost) == min(cost(parts, lengths, pass_cost) for parts in divisions)


def test_rows_that_name_modules_are_refused_while_none_are_served():
    backbone = tiny.tiny_backbone("bert")
    batch = backbone.collate(backbone.encode(ROWS))
    batch["input"]["modules"] = torch.zeros(len(ROWS), dtype=torch.long)
    with pytest.raises(BackboneError, match="none are served"):
        backbone(**batch)


def test_no_rows_are_no_groups():
    assert groups([]) == []


@pytest.mark.parametrize("method", METHODS.names())
def test_losses_and_gradients_are_those_of_one_pass(method, monkeypatch):
    backbone = tiny.tiny_backbone("bert")
    attached = METHODS.get(method)().attach(backbone.model)
    generator = torch.Generator().manual_seed(0)
    for value in attached.parameters():
        value.data += 0.05 * torch.randn(value.shape, generator=generator)
    batch = backbone.collate(backbone.encode(ROWS), train=True)
    lengths = batch["input"]["attention_mask"].sum(dim=1).tolist()
    assert len(groups(lengths)) > 1

    def run():
        for value in attached.parameters():
            value.grad = None
        out = backbone(**batch)
        out["loss"].backward()
        return out["losses"].detach(), [value.grad.clone() for value in attached.parameters()]

    losses, gradients = run()
    monkeypatch.setattr(encoder, "groups", lambda lengths: [])
    at_once, gradients_at_once = run()
    attached.detach()
    torch.testing.assert_close(losses, at_once, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, gradients_at_once, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
