"""A SoRA of a built zoo: its gates are stored as they were trained, zeros and all."""

from __future__ import annotations

from dataclasses import dataclass

import tiny
import torch
from small import toy_target

from transfer.building import BuildSettings
from transfer.building.records import Records
from transfer.building.source import train_source
from transfer.building.storing import store_source
from transfer.deltas import METHODS, SoRA, prune, ranks_of
from transfer.training import TuneSettings
from zoo import Zoo


@dataclass(frozen=True, kw_only=True)
class QuickSoRA(SoRA):
    xi: float = 0.05


def test_a_sora_is_trained_stored_and_pruned(tmp_path, monkeypatch):
    backbone, task, records = tiny.tiny_backbone("bert"), toy_target(), Records(tmp_path / "zoo")
    quick = TuneSettings(steps=12, batch_size=8, eval_every=12, learning_rate=2e-2)
    settings = BuildSettings(methods=("sora",), tune=quick)
    # A build takes a method's defaults, whose xi closes few gates in twelve steps.
    monkeypatch.setitem(METHODS._targets, "sora", f"{__name__}:QuickSoRA")
    record = train_source(backbone, task, "sora", settings, records)
    stored = store_source(backbone, task, "sora", settings, records)
    assert stored.card.method == record.method == "sora"
    assert {tensor.dtype for tensor in stored.tensors().values()} == {torch.float16}
    assert Zoo(tmp_path / "zoo").find_start("sora", SoRA().start_settings(backbone.model), backbone.fingerprint)
    kept = ranks_of(stored).kept
    assert ranks_of(stored).share < 1
    assert {place: rank for place, rank in kept.items() if rank} == ranks_of(prune(stored)).kept
