"""Target: which settings and start it takes, what it looks at, and that it computes things once."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset

from transfer.deltas import Adapter, LoRA
from transfer.errors import DataError
from transfer.similarity import ESTIMATORS, Target
from transfer.similarity.target import MOST_EXAMPLES
from transfer.tasks import Task
from zoo import Zoo


def test_settings_and_start_are_those_of_most_modules(toys):
    backbone = tiny.tiny_backbone("bert")
    few = toys.modules(backbone, LoRA(rank=2), n=1)
    many = toys.modules(backbone, LoRA(rank=3), n=2)
    for modules in ([*few, *many], [*many, *few]):
        target = Target.for_modules(toys.task(), backbone, modules)
        assert target.method.rank == 3
        assert all(torch.equal(target.start[name], value) for name, value in many[0].start().items())


def test_a_known_start_goes_before_a_majority_without_one(toys):
    backbone, method = tiny.tiny_backbone("bert"), LoRA(rank=2)
    known = toys.modules(backbone, LoRA(rank=3), n=1)[0]
    stray = [
        toys.module(backbone, method, toys.moved(method.draw(backbone.model), 0.1, seed), f"s{seed}") for seed in (1, 2)
    ]
    card = known.card.changed(start="lora-00000000-00000000")
    known = type(known).new(card, known.tensors(), known.signature, known.start())
    assert Target.for_modules(toys.task(), backbone, [*stray, known]).method.rank == 3


def test_start_of_stored_modules_is_the_one_in_the_zoo(toys, tmp_path):
    backbone = tiny.tiny_backbone("bert")
    zoo = Zoo(tmp_path / "zoo")
    start = {name: value + 1 for name, value in LoRA().draw(backbone.model, seed=9).items()}
    for seed in (0, 1):
        module = toys.module(backbone, LoRA(), toys.moved(start, 0.1, seed), f"s{seed}", start=start)
        zoo.add(module)
    target = Target.for_modules(toys.task(), backbone, zoo.find())
    assert all(torch.allclose(target.start[name], value, atol=1e-3) for name, value in start.items())


def test_without_modules_the_method_draws_its_start():
    backbone = tiny.tiny_backbone("bert")
    split = Dataset.from_list(tiny.sentiment_rows(4))
    task = Task(name="t", kind="classification", train=split, dev=split, test=split)
    target = Target.for_modules(task, backbone, [], "adapter")
    assert isinstance(target.method, Adapter)
    assert all(torch.equal(target.start[name], value) for name, value in Adapter().draw(backbone.model).items())


def test_a_method_with_settings_keeps_them_and_takes_a_start_only_of_its_shapes(toys):
    backbone = tiny.tiny_backbone("bert")
    modules = toys.modules(backbone, LoRA(rank=3), n=1)
    other = Target.for_modules(toys.task(), backbone, modules, LoRA(rank=5))
    assert other.method.rank == 5
    assert all(torch.equal(other.start[name], value) for name, value in LoRA(rank=5).draw(backbone.model).items())


def test_a_large_task_is_looked_at_through_a_draw(toys):
    backbone = tiny.tiny_backbone("bert")
    target = toys.target(backbone, [], n=MOST_EXAMPLES + 50)
    assert len(target.encoded) == MOST_EXAMPLES + 50
    assert len(target.sample) == MOST_EXAMPLES
    assert target.embeddings.shape == (MOST_EXAMPLES, 32)
    texts = target.task.train["input"]
    expected = backbone.embed([texts[target._drawn[3]]]).numpy()[0]
    np.testing.assert_allclose(target.embeddings[3], expected, atol=1e-5)


def test_only_the_drawn_examples_of_a_large_task_are_tokenised(world, toys, monkeypatch):
    backbone, _, modules = world()
    n, encode = MOST_EXAMPLES + 50, backbone.encode
    target, seen = toys.target(backbone, modules, n=n), []
    expected = [encode(target.task.train)[index].input for index in target._drawn]
    monkeypatch.setattr(backbone, "encode", lambda rows, fields=(): seen.append(len(rows)) or encode(rows, fields))
    assert [row.input for row in target.sample] == expected
    for name in ("gradient:first-order", "gradient:alignment", "embedding:cosine", "prediction:loss"):
        ESTIMATORS.get(name)().score(target, modules)
    assert seen == [MOST_EXAMPLES]
    small = toys.target(backbone, modules, n=12)
    assert [len(small.sample), len(small.encoded), *seen[1:]] == [12, 12, 12]  # tokenised once


def test_halves_are_balanced_disjoint_and_the_same_again(toys):
    backbone = tiny.tiny_backbone("bert")
    first, second = toys.target(backbone, [], n=12), toys.target(backbone, [], n=12)
    one, two = first.halves
    assert [row.input for row in one] == [row.input for row in second.halves[0]]
    assert sorted(tuple(row.input) for row in one + two) == sorted(tuple(row.input) for row in first.encoded)
    for half in (one, two):
        assert [row.label for row in half].count(0) == 3


def test_a_single_example_stands_in_both_halves(toys):
    one, two = toys.target(tiny.tiny_backbone("bert"), [], n=1).halves
    assert len(one) == len(two) == 1


def test_dev_and_test_are_never_looked_at(world, toys):
    backbone, _, modules = world()
    task = toys.task(8)
    blind = toys.task(8, dev=task.dev.select([]), test=task.test.select([]))
    for name in ESTIMATORS.names():
        seen, unseen = (
            ESTIMATORS.get(name)().score(Target.for_modules(t, backbone, modules), modules) for t in (task, blind)
        )
        assert (seen == unseen).all(), name


def test_no_training_examples_is_an_error(toys):
    task = toys.task()
    with pytest.raises(DataError, match="no training examples"):
        Target.for_modules(toys.task(train=task.train.select([])), tiny.tiny_backbone("bert"), [])


def test_an_example_without_label_is_an_error(toys):
    rows = Dataset.from_list([{**row, "label": -1} for row in tiny.sentiment_rows(3)])
    many = Dataset.from_list([{**row, "label": -1} for row in tiny.sentiment_rows(MOST_EXAMPLES + 1)])
    for train in (rows, many):
        target = Target.for_modules(toys.task(train=train), tiny.tiny_backbone("bert"), [])
        for part in ("sample", "encoded"):
            with pytest.raises(DataError, match="has no label"):
                getattr(target, part)
