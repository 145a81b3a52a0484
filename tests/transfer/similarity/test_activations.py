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


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_grams_are_of_tokens_and_not_of_padding(arch, monkeypatch):
    """They are those of the rows one by one, whatever a batch is padded to."""
    backbone = tiny.tiny_backbone(arch)
    rows = [
        {"input": "a good film " * (1 + 2 * n), "choices": [f"{'fine ' * n}{n}", f"{'bad ' * n}{n}"], "label": n % 2}
        for n in range(6)
    ]
    encoded = backbone.encode(rows)
    assert len({len(row.input) for row in encoded}) > 3
    places = LoRA().places(backbone.model)
    together = input_grams(backbone, encoded, places)
    batches = backbone.batches
    monkeypatch.setattr(backbone, "batches", lambda encoded, batch_size=1: batches(encoded, 1))
    alone = input_grams(backbone, encoded, places)
    for place in places:
        torch.testing.assert_close(together[place], alone[place], rtol=1e-3, atol=1e-4)


def test_grams_are_the_mean_of_x_x_transposed_on_the_bare_backbone():
    """Of the first block's query, whose inputs are what the embeddings give."""
    backbone = tiny.tiny_backbone("bert")
    encoded = backbone.encode(tiny.sentiment_rows(5))
    place = LoRA().places(backbone.model)[0]
    seen = []
    with torch.no_grad():
        for row in encoded:
            for ids in (row.input, *row.choices):
                seen.append(backbone.model.embeddings(input_ids=torch.tensor([ids]))[0])
    x = torch.cat(seen)
    expected = x.T @ x / len(x)
    unique = [row.choices for row in encoded]
    assert all(choices == unique[0] for choices in unique)  # read once for the batch, or once for each row
    bare = input_grams(backbone, encoded[:1], [place])[place]
    once = torch.cat(seen[:3])
    torch.testing.assert_close(bare, once.T @ once / len(once), rtol=1e-3, atol=1e-4)
    assert expected.shape == bare.shape
    with backbone.use(LoRA(), {n: t + 1.0 for n, t in LoRA().draw(backbone.model).items()}):
        torch.testing.assert_close(input_grams(backbone, encoded[:1], [place])[place], bare)


def test_a_place_that_is_not_there_is_named():
    backbone = tiny.tiny_backbone("bert")
    with pytest.raises(DeltaError, match=r"no\.such"):
        input_grams(backbone, [], ["no.such"])


def test_a_module_on_an_embedding_is_refused_by_name(toys):
    backbone, method = tiny.tiny_backbone("bert"), LoRA(at=("embeddings.word_embeddings",))
    module = toys.module(backbone, method, method.draw(backbone.model), "films")
    with pytest.raises(DeltaError, match=rf"'regmean' cannot merge '{module.id}', which acts on the embedding"):
        source_grams(backbone, [module], print)
