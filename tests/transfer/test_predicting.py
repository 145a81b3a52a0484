"""Answers to rows without a label: the most probable choice, or generated text."""

from __future__ import annotations

import pytest
import small
import torch

from transfer.deltas import LoRA
from transfer.deltas.delta import Delta
from transfer.errors import BackboneError, ConfigError, DataError, DeltaError
from transfer.finetuning import finetune
from transfer.predicting import Prediction, factor_of, predict
from transfer.training import measure
from zoo import Module

ROWS = [
    {"input": "text: a warm film", "choices": ["negative", "positive"]},
    {"input": "question: is it open", "choices": ["no", "yes", "only in winter", "maybe"]},
    {"input": "", "choices": ["music"]},
    {"input": "premise: a man plays", "choices": ["entailment", "neutral", "contradiction"], "label": 2},
]


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_each_row_is_answered_from_its_own_choices(arch, small_zoo):
    backbone, _ = small_zoo(arch)
    found = predict(ROWS, backbone)
    for row, answer in zip(ROWS, found, strict=True):
        alone = torch.softmax(backbone.choice_logits([{"input": row["input"], "choices": row["choices"]}])[0], 0)
        assert answer.probabilities == pytest.approx(alone.tolist(), abs=1e-5)
        assert len(answer.probabilities) == len(row["choices"])
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)
        assert answer.label == int(alone.argmax())
        assert answer.answer == row["choices"][answer.label]


def test_the_delta_decides_and_is_taken_off_again(small_zoo):
    backbone, zoo = small_zoo()
    module = next(iter(zoo))
    bare, ours = predict(ROWS, backbone), predict(ROWS, backbone, module)
    assert backbone.delta is None
    assert [row.probabilities for row in ours] != [row.probabilities for row in bare]
    assert predict(ROWS, backbone, Delta.from_module(module)) == ours
    backbone.attach(Delta.from_module(module))
    try:
        assert predict(ROWS, backbone) == ours  # None is what is attached now
    finally:
        backbone.detach()


def test_probabilities_are_as_sure_as_dev_said(small_zoo):
    backbone, zoo = small_zoo()
    task = small.toy_target()
    found = finetune(task, backbone, zoo=zoo, steps=30, batch_size=8, learning_rate=3e-2, keep="last")
    with backbone.use(found):
        dev = measure(backbone, backbone.encode(task.dev, task.fields))
    factor = found.module.card.metrics["dev"]["factor"]
    assert factor == pytest.approx(dev.factor)
    assert factor < 1
    rows = list(task.test)
    with backbone.use(found):
        scores = backbone.choice_logits(rows)
    wanted = torch.softmax(factor * scores, dim=1)
    for given in (found, found.module):
        answers = predict(rows, backbone, given)
        assert torch.allclose(torch.tensor([answer.probabilities for answer in answers]), wanted, atol=1e-5)
        assert [answer.label for answer in answers] == scores.argmax(dim=1).tolist()
    mixed = predict(rows, backbone, deltas=[found.module, None] * (len(rows) // 2))
    assert torch.allclose(torch.tensor([answer.probabilities for answer in mixed[::2]]), wanted[::2], atol=1e-5)
    bare = predict(rows[1::2], backbone)
    assert [answer.label for answer in mixed[1::2]] == [answer.label for answer in bare]


@pytest.mark.parametrize("said", [0.0, -1.0, 7.0])
def test_a_factor_that_makes_no_sense_is_not_taken(said, small_zoo):
    _, zoo = small_zoo()
    module = next(iter(zoo))
    odd = Module.new(module.card.changed(metrics={"dev": {"factor": said}}), module.tensors(), module.signature)
    assert factor_of(odd) == factor_of(module) == factor_of(None) == 1.0


def test_rows_without_choices_get_generated_text(small_zoo):
    backbone, _ = small_zoo("t5")
    rows = [{"input": "text: a warm film"}, {"input": "premise: a man plays", "choices": []}]
    found = predict(rows, backbone)
    assert [row.answer for row in found] == backbone.generate(rows)
    assert [(row.label, row.probabilities) for row in found] == [(None, ()), (None, ())]
    assert found[0].to_json() == {"answer": found[0].answer}


def test_a_prediction_as_json():
    row = Prediction("yes", 1, (1 / 3, 2 / 3)).to_json()
    assert row == {"answer": "yes", "label": 1, "probabilities": [0.333333, 0.666667]}


def test_no_rows_no_answers(small_zoo):
    assert predict([], small_zoo()[0]) == []


def test_an_iterator_of_rows_is_read_once(small_zoo):
    backbone, _ = small_zoo()
    assert predict(iter(ROWS), backbone) == predict(ROWS, backbone)


@pytest.mark.parametrize("row", [{"text": "a film", "choices": ["no", "yes"]}, {"input": None}, {"input": 3}])
def test_a_row_without_an_input_is_named(row, small_zoo):
    with pytest.raises(DataError, match="row 2 has no input"):
        predict([ROWS[0], row], small_zoo()[0])


def test_choices_on_some_rows_only_are_refused(small_zoo):
    with pytest.raises(DataError, match=r"(?s)row 2 has no choices.*--choices"):
        predict([ROWS[0], {"input": "a film"}], small_zoo()[0])


@pytest.mark.parametrize("choices", [[1, 2], "yes", 3, ["no", None]])
def test_choices_that_are_no_texts_are_refused(choices, small_zoo):
    with pytest.raises(DataError, match="choices of row 2 are no list of texts"):
        predict([ROWS[0], {"input": "a film", "choices": choices}], small_zoo()[0])


def test_an_encoder_cannot_generate(small_zoo):
    with pytest.raises(BackboneError, match="cannot generate"):
        predict([{"input": "a film"}], small_zoo()[0])


def test_what_holds_no_delta_is_refused(small_zoo):
    with pytest.raises(DeltaError, match="a LoRA holds no delta"):
        predict(ROWS, small_zoo()[0], LoRA())


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_each_row_is_answered_by_its_own_delta(arch, small_zoo):
    backbone, zoo = small_zoo(arch)
    first, second = list(zoo)[:2]
    deltas = [first, None, second, first]
    found = predict(ROWS, backbone, deltas=deltas)
    for row, delta, answer in zip(ROWS, deltas, found, strict=True):
        alone = predict([row], backbone, delta)[0]
        assert answer.answer == alone.answer
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
    assert backbone.delta is None
    if arch != "bert":
        rows = [{"input": row["input"]} for row in ROWS]
        alone = [predict([row], backbone, delta)[0] for row, delta in zip(rows, deltas, strict=True)]
        assert predict(rows, backbone, deltas=deltas) == alone
    for more in ({"deltas": deltas[:3]}, {"delta": first, "deltas": deltas}):
        with pytest.raises(ConfigError, match="one for each row"):
            predict(ROWS, backbone, **more)


def test_one_module_fetched_twice_is_one_delta(small_zoo):
    backbone, zoo = small_zoo()
    module_id = next(iter(zoo)).id
    rows = [{"input": f"text: film {i}", "choices": ["bad", "good"]} for i in range(3)]
    alone = predict(rows, backbone, zoo.get(module_id))
    found = predict(rows, backbone, deltas=[zoo.get(module_id) for _ in rows])
    assert [one.answer for one in found] == [one.answer for one in alone]


def test_scores_that_are_no_numbers_are_no_answers(small_zoo):
    backbone, zoo = small_zoo()
    module = next(iter(zoo))
    huge = Delta.from_module(module)
    huge = Delta(huge.method, {name: torch.full_like(tensor, 1e30) for name, tensor in huge.tensors.items()})
    with pytest.raises(DataError, match="row 1 has no answer"):
        predict(ROWS, backbone, huge)
