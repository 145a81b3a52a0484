"""Gram matrices of what modules see."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from transfer.deltas import LoRA
from transfer.errors import DeltaError
from transfer.similarity.activations import EXAMPLES, input_grams, source_grams
from transfer.similarity.signatures import drawn
from transfer.tasks import load_task


def test_grams_of_a_source_come_from_its_drawn_examples_alone(toys, tmp_path, monkeypatch):
    rows = [{"text": row["input"], "label": row["choices"][row["label"]]} for row in tiny.sentiment_rows(200)]
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setenv("TRANSFER_TASKS", str(tmp_path))
    task = load_task("films")
    assert len(task.train) > EXAMPLES
    backbone, method = tiny.tiny_backbone("bert"), LoRA()
    modules = [toys.module(backbone, method, toys.moved(method.draw(backbone.model), 0.1, n), "films") for n in (0, 1)]
    rows = backbone.encode(task.train, task.fields)
    chosen = [rows[index] for index in drawn(len(rows), EXAMPLES, 0)]
    expected = input_grams(backbone, chosen, method.places(backbone.model))
    encode, seen, lines = backbone.encode, [], []
    monkeypatch.setattr(backbone, "encode", lambda rows, fields=(): seen.append(len(rows)) or encode(rows, fields))
    found = source_grams(backbone, modules, lines.append)
    assert lines == ["inputs of 1 source tasks were read for the merge, at most 64 examples each"]
    assert seen == [EXAMPLES]  # once for both modules
    for module in modules:
        assert found[module.id].keys() == expected.keys()
        assert all(torch.allclose(gram, expected[place]) for place, gram in found[module.id].items())


def test_a_module_on_an_embedding_is_refused_by_name(toys):
    backbone, method = tiny.tiny_backbone("bert"), LoRA(at=("embeddings.word_embeddings",))
    module = toys.module(backbone, method, method.draw(backbone.model), "films")
    with pytest.raises(DeltaError, match=rf"'regmean' cannot merge '{module.id}', which acts on the embedding"):
        source_grams(backbone, [module], print)
