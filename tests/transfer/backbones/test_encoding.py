"""Cutting by fields, padding, buckets."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.backbones.encoding import Encoded, buckets, encode_texts, field_spans, keep_within, label_of, pad
from transfer.tasks.fields import split_fields

LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=6)


@given(LENGTHS, st.integers(-5, 400))
def test_keep_within_fills_the_budget_and_no_more(lengths, budget):
    kept = keep_within(lengths, budget)
    assert sum(kept) == min(sum(lengths), max(budget, 0))
    assert all(0 <= k <= length for k, length in zip(kept, lengths, strict=True))


@given(LENGTHS, st.integers(0, 400))
def test_keep_within_cuts_the_longest_only(lengths, budget):
    kept = keep_within(lengths, budget)
    level = max(kept)
    for k, length in zip(kept, lengths, strict=True):
        # What was cut is level with the longest that stays, give or take the one token that does not divide.
        assert k == length or level - 1 <= k <= level


@given(LENGTHS, st.integers(0, 400))
def test_keep_within_gives_more_for_a_larger_budget(lengths, budget):
    assert all(a <= b for a, b in zip(keep_within(lengths, budget), keep_within(lengths, budget + 1), strict=True))


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(1, 9))
def test_buckets_hold_every_index_once_longest_first(lengths, size):
    found = list(buckets(lengths, size))
    assert sorted(int(i) for index in found for i in index) == list(range(len(lengths)))
    assert all(len(index) == size for index in found[:-1])
    in_order = [lengths[i] for index in found for i in index]
    assert in_order == sorted(lengths, reverse=True)


def test_pad_left_and_right():
    ids, mask = pad([[5, 6, 7], [8]], 1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = pad([[5, 6, 7], [8]], 1, left=True)
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert pad([], 0)[0].shape == (0, 0)


@pytest.mark.parametrize(
    ("row", "label"), [({"label": 2}, 2), ({"label": np.int64(1)}, 1), ({"label": None}, -1), ({}, -1)]
)
def test_label_of_a_row(row, label):
    assert label_of(row) == label


def test_length_is_that_of_the_longest_choice():
    assert Encoded([1, 2, 3], [[1], [1, 2]], 0).length == 5
    assert Encoded([1, 2, 3]).length == 3


@pytest.mark.parametrize(
    "text",
    [
        "question: is it open context: It shut.",
        "question: is it open\ncontext: It shut.",
        "question: see page context:12 or not context: It shut.",
        "question: context:",
    ],
)
def test_spans_are_where_the_task_finds_its_fields(text):
    fields = ("question", "context")
    spans = field_spans(text, fields)
    assert [text[a:b].partition(":")[2].strip() for a, b in spans] == [value for _, value in split_fields(text, fields)]


@pytest.mark.parametrize("text", ["question: no mark", "well, question: a context: b", "context: b question: a", ""])
def test_without_every_mark_in_order_the_whole_text_is_one_field(text):
    assert field_spans(text, ("question", "context")) == [(0, len(text))]


@pytest.mark.parametrize("kind", ["both", "end", "none"])
@settings(max_examples=25, deadline=None)
@given(question=st.integers(1, 4), context=st.integers(20, 120), limit=st.integers(60, 90))
def test_a_long_context_is_cut_and_the_question_stays(kind, question, context, limit):
    tokenizer = tiny.tiny_tokenizer(kind)
    text = "question: " + "is it " * question + "context: " + "open harbour " * context
    [ids] = encode_texts(tokenizer, [text], limit, ("question", "context"))
    assert len(ids) == min(len(tokenizer(text)["input_ids"]), limit)
    assert kind == "none" or ids[-1] == tokenizer.eos_token_id  # which is not cut
    assert text.startswith(tokenizer.decode(ids, skip_special_tokens=True))  # of the context only the tail is gone


def test_a_long_question_is_cut_where_the_context_is_short():
    tokenizer = tiny.tiny_tokenizer()
    text = "question: " + "is it open " * 60 + "context: It shut."
    [ids] = encode_texts(tokenizer, [text], 40, ("question", "context"))
    assert len(ids) == 40
    assert tokenizer.decode(ids, skip_special_tokens=True).endswith("context: It shut.")


def test_without_fields_the_tail_is_cut():
    tokenizer = tiny.tiny_tokenizer()
    text = "question: is it context: " + "open " * 80
    whole = tokenizer(text)["input_ids"]
    [ids] = encode_texts(tokenizer, [text], 30)
    assert ids == [*whole[:29], whole[-1]]
    assert encode_texts(tokenizer, [text], 30, ("question", "premise")) == [ids]


def test_each_text_can_have_a_limit_of_its_own():
    tokenizer = tiny.tiny_tokenizer()
    texts = ["open " * 50] * 3
    found = encode_texts(tokenizer, texts, [10, 200, 20])
    assert [len(ids) for ids in found] == [10, len(tokenizer(texts[0])["input_ids"]), 20]


def test_a_text_without_tokens_is_read_as_one_end_token():
    tokenizer = tiny.tiny_tokenizer("none")
    assert encode_texts(tokenizer, ["", "a"], 9)[0] == [tokenizer.eos_token_id]
    assert encode_texts(tokenizer, [""], 9, special=False) == [[]]
    assert encode_texts(tokenizer, [], 9) == []


class Slow:
    """A tokenizer that cannot tell offsets."""

    is_fast = False

    def __init__(self):
        self.inner = tiny.tiny_tokenizer()
        self.eos_token_id, self.pad_token_id = self.inner.eos_token_id, self.inner.pad_token_id

    def __call__(self, *args, **kwargs):
        assert "return_offsets_mapping" not in kwargs
        return self.inner(*args, **kwargs)


def test_a_tokenizer_without_offsets_cuts_the_tail():
    text = "question: is it context: " + "open " * 80
    fields = ("question", "context")
    assert encode_texts(Slow(), [text, "a"], 30, fields) == encode_texts(tiny.tiny_tokenizer(), [text, "a"], 30)


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_a_backbone_cuts_by_the_fields_it_is_given(arch):
    backbone = tiny.tiny_backbone(arch)
    text = "context: " + "open harbour " * 60 + "question: is it open"
    row = {"input": text, "choices": ["no", "yes"], "label": 0}
    [with_fields] = backbone.encode([row], ("context", "question"))
    [without] = backbone.encode([row])
    assert "question: is it open" in backbone.tokenizer.decode(with_fields.input)
    assert "question" not in backbone.tokenizer.decode(without.input)
    assert not torch.equal(backbone.embed([text], ("context", "question")), backbone.embed([text]))
