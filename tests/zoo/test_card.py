"""A card holds what it was given, and nothing that could not be."""

from __future__ import annotations

import contextlib
import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_toys import card_of

from zoo import Card, CardError
from zoo import card as card_file
from zoo.card import parse_card, read_json

FIELDS = {"task": "trec", "method": "lora", "settings": {"places": ["q"]}, "backbone": "b", "fingerprint": "0" * 64}


def test_a_card_has_the_public_fields():
    card = card_of(metrics={"dev": {"accuracy": 1}}, steps=150, seed=7)
    first = [
        "schema",
        "task",
        "category",
        "method",
        "settings",
        "backbone",
        "fingerprint",
        "metrics",
        "data",
        "license",
    ]
    assert all(hasattr(card, name) for name in [*first, "seed", "start"])
    assert (card.schema, card.task, card.metrics, card.seed) == (1, "boolq", {"dev": {"accuracy": 1.0}}, 7)


def test_what_is_written_is_read_again():
    card = card_of(metrics={"dev": {"accuracy": 0.5, "by": {"a": 1}}}, data={"choices": ["no", "yes"]}, start=None)
    assert parse_card(json.loads(json.dumps(card.as_dict()))) == card
    assert pickle.loads(pickle.dumps(card)) == card


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "../boolq"),
        ("task", "Boolq"),
        ("task", "boolq\n"),
        ("task", "a" * 101),
        ("task", 3),
        ("method", "lora-"),
        ("fingerprint", "abc"),
        ("fingerprint", "A" * 64),
        ("backbone", ""),
        ("settings", [1]),
        ("settings", {"alpha": math.nan}),
        ("settings", {"a": {"b": [math.inf]}}),
        ("settings", {"a": object()}),
        ("settings", {1: 2}),
        ("metrics", {"dev": math.nan}),
        ("metrics", {"dev": {"accuracy": "high"}}),
        ("metrics", {"dev": True}),
        ("metrics", [0.5]),
        ("steps", "150"),
        ("steps", 1.5),
        ("steps", -1),
        ("seed", True),
        ("start", "../../etc/passwd"),
        ("start", "lora"),
        ("created", "yesterday"),
        ("schema", 2),
        ("schema", 0),
        ("license", None),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(CardError, match=field):
        Card(**{**FIELDS, field: value})


def test_an_unknown_field_and_a_missing_one_are_refused_by_name():
    with pytest.raises(CardError, match="colour"):
        Card(**FIELDS, colour="red")
    with pytest.raises(CardError, match="fingerprint"):
        Card(**{name: value for name, value in FIELDS.items() if name != "fingerprint"})


def test_settings_nested_without_end_are_refused():
    endless: dict = {}
    endless["again"] = endless
    with pytest.raises(CardError, match="settings"):
        Card(**{**FIELDS, "settings": endless})


def test_a_card_cannot_be_changed_but_copied_with_changes():
    card = card_of()
    with pytest.raises(AttributeError):
        card.task = "other"
    assert card.changed(steps=3).steps == 3
    with pytest.raises(CardError, match="steps"):
        card.changed(steps=-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested"),
        (" " * (5 << 20), "characters"),
    ],
)
def test_hostile_text_ends_in_a_card_error(text, said):
    with pytest.raises(CardError, match=said):
        read_json(text)


def test_an_older_schema_is_read_through_the_migrations(monkeypatch):
    def rename(fields):
        return {("method" if name == "kind" else name): value for name, value in fields.items()}

    monkeypatch.setattr(card_file, "MIGRATIONS", {-1: rename, 0: lambda fields: {**fields, "license": "old"}})
    old = {("kind" if name == "method" else name): value for name, value in FIELDS.items()}
    card = parse_card({**old, "schema": -1})
    assert (card.schema, card.method, card.license) == (1, "lora", "old")


@pytest.mark.parametrize(("schema", "said"), [(99, "pip install"), (-5, "never was"), ("1", "whole"), (None, "whole")])
def test_a_schema_of_the_future_or_of_nowhere_is_refused(schema, said):
    with pytest.raises(CardError, match=said):
        parse_card({**FIELDS, "schema": schema})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_any_json_in_settings_survives(value):
    card = Card(**{**FIELDS, "settings": value})
    assert parse_card(read_json(json.dumps(card.as_dict()))).settings == value


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "steps", "metrics", "start", "x"]), json_values))
def test_any_fields_give_a_card_or_a_card_error(fields):
    with contextlib.suppress(CardError):
        assert isinstance(parse_card({"schema": 1, **fields}), Card)
