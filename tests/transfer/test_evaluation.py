"""Metrics and intervals by hand; splits that cannot be measured."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import small
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from transfer.deltas import LoRA
from transfer.deltas.delta import Delta
from transfer.errors import ConfigError, DataError
from transfer.evaluation import evaluate, text_scores, wilson
from transfer.tasks import Task

RIGHT = [0, 0, 0, 1, 1, 2]
ANSWERED = [0, 0, 1, 1, 1, 0]


@pytest.fixture(scope="module")
def bert(small_zoo):
    return small_zoo()[0]


def three_way() -> Task:
    rows = [{"input": f"row {n}", "choices": ["a", "b", "c"], "label": label} for n, label in enumerate(RIGHT)]
    split = Dataset.from_list(rows)
    return Task(name="three", kind="classification", train=split, dev=split.select([]), test=split)


def generation(outputs: list[str]) -> Task:
    split = Dataset.from_list([{"input": f"row {n}", "output": output} for n, output in enumerate(outputs)])
    return Task(name="words", kind="generation", train=split, dev=split, test=split, metric="rouge_l")


def test_a_metric_of_another_kind_of_task_is_not_the_task_s_own(bert):
    assert evaluate(dataclasses.replace(three_way(), metric="exact_match"), bert).metric == "accuracy"


def test_accuracy_macro_f1_and_interval_by_hand(bert, monkeypatch):
    logits = torch.nn.functional.one_hot(torch.tensor(ANSWERED), 3).float()
    losses = torch.tensor([0.5, 0.5, 2.0, 0.5, 0.5, 2.0])
    monkeypatch.setattr(bert, "outputs", lambda *args: (logits, losses), raising=False)
    found = evaluate(three_way(), bert)
    # F1: a has 2 right, 1 too many, 1 missed: 4/6; b has 2 right, 1 too many: 4/5; c has none right.
    assert found.metrics == pytest.approx({"loss": 1.0, "accuracy": 4 / 6, "macro_f1": (4 / 6 + 4 / 5) / 3})
    assert found.interval == pytest.approx((0.29999, 0.90323), abs=1e-5)
    assert found.value == found.metrics["accuracy"]
    assert found.per_example.tolist() == [1, 1, 0, 1, 1, 0]
    assert (found.task, found.split, found.n, found.metric) == ("three", "test", 6, "accuracy")
    assert "per_example" not in found.to_json()
    assert found.to_json()["interval_95"] == list(found.interval)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0, 0.27753), (10, 10, 0.72247, 1), (5, 10, 0.23659, 0.76341), (1, 1, 0.20655, 1)],
)
def test_wilson_by_hand(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_turns_with_it(counts):
    right, n = counts
    low, high = wilson(right, n)
    assert 0 <= low <= right / n + 1e-12
    assert right / n - 1e-12 <= high <= 1
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_of_nothing():
    with pytest.raises(ConfigError, match="at least one"):
        wilson(0, 0)


@pytest.mark.parametrize(
    ("output", "reference", "exact", "f1", "rouge"),
    [
        ("The cat.", "a cat", 1, 1, 0.5),  # articles, case and punctuation count for ROUGE-L only as words do
        ("The cat sat", "a cat sat down", 0, 0.8, 4 / 7),  # 2 of 2 and 2 of 3; ROUGE-L 2 of 3 and 2 of 4
        ("rains", "rain", 0, 0, 1),  # stems agree
        ("cat cat", "cat", 0, 2 / 3, 2 / 3),  # a repeated word counts once
        ("sat cat", "cat sat", 0, 1, 0.5),  # the order counts for ROUGE-L
        ("", "cat", 0, 0, 0),
        ("", "the", 1, 1, 0),
        ("dog", "cat", 0, 0, 0),
    ],
)
def test_text_scores_by_hand(output, reference, exact, f1, rouge):
    found = text_scores([output], [reference])
    assert found["exact_match"].tolist() == [exact]
    assert found["token_f1"] == pytest.approx([f1])
    assert found["rouge_l"] == pytest.approx([rouge])


def test_generation_is_measured_by_its_texts(small_zoo, monkeypatch):
    t5, _ = small_zoo("t5")
    task = generation(["a cat", "a cat sat down", "rain", "cat"])
    monkeypatch.setattr(t5, "generate", lambda rows, fields=(): ["The cat.", "The cat sat", "rains", "cat cat"])
    found = evaluate(task, t5)
    assert found.metrics["exact_match"] == 0.25
    assert found.metrics["token_f1"] == pytest.approx((1 + 0.8 + 0 + 2 / 3) / 4)
    assert found.metrics["rouge_l"] == pytest.approx((0.5 + 4 / 7 + 1 + 2 / 3) / 4)
    assert found.metrics["loss"] == pytest.approx(float(t5.loss(task.test).mean()), abs=1e-5)
    assert "accuracy" not in found.metrics
    values = np.array([1, 0.8, 0, 2 / 3])
    error = 1.96 * values.std(ddof=1) / math.sqrt(4)
    assert found.interval == pytest.approx((values.mean() - error, min(1, values.mean() + error)))
    assert found.value == pytest.approx(values.mean())
    assert found.metric == "rouge_l"


def test_generation_of_one_example_says_nothing_sure(small_zoo, monkeypatch):
    t5, _ = small_zoo("t5")
    monkeypatch.setattr(t5, "generate", lambda rows, fields=(): ["cat"])
    low, high = evaluate(generation(["cat"]), t5).interval
    assert (low, high) == (0.5, 1)


def test_an_encoder_cannot_be_measured_on_generation(bert):
    with pytest.raises(DataError, match="an encoder cannot give"):
        evaluate(generation(["cat", "dog"]), bert)


def test_a_delta_is_measured_and_taken_off_again(bert):
    task, method = small.toy_target(), LoRA()
    tensors = {name: value + 0.2 for name, value in method.draw(bert.model).items()}
    bare = evaluate(task, bert)
    with_delta = evaluate(task, bert, Delta(method, tensors))
    assert bert.delta is None
    assert with_delta.metrics["loss"] != pytest.approx(bare.metrics["loss"], abs=1e-3)
    bert.attach(method, tensors)
    try:
        assert evaluate(task, bert).metrics == with_delta.metrics  # None is what is attached now
        assert bert.delta is not None
    finally:
        bert.detach()
    assert evaluate(task, bert).metrics == bare.metrics


def test_splits_are_measured_apart(bert):
    task = small.toy_target(n=8, dev=6)
    assert [evaluate(task, bert, split=split).n for split in ("train", "dev", "test")] == [8, 6, 16]


def test_an_unknown_split_names_those_there_are(bert):
    with pytest.raises(ConfigError, match=r"(?s)no split 'validation'.*train, dev, test"):
        evaluate(small.toy_target(), bert, split="validation")


def test_an_empty_split_proposes_the_fullest(bert):
    task = three_way()
    with pytest.raises(DataError, match=r"(?s)dev split of 'three' is empty.*--split train"):
        evaluate(task, bert, split="dev")


def test_a_split_without_labels_is_refused(bert):
    task = small.toy_target()
    hidden = task.test.map(lambda row: {"label": -1})
    with pytest.raises(DataError, match="rows without a label"):
        evaluate(dataclasses.replace(task, test=hidden), bert)


def test_rows_of_one_choice_say_nothing(bert):
    rows = Dataset.from_list([{"input": f"row {n}", "choices": ["yes"], "label": 0} for n in range(4)])
    task = Task(name="sure", kind="multiple_choice", train=rows, dev=rows, test=rows)
    with pytest.raises(DataError, match="one choice only: there is nothing to choose"):
        evaluate(task, bert)
