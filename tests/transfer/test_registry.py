"""Names mapped to what is imported on first use."""

from __future__ import annotations

import sys

import pytest

from transfer.backbones.loading import KINDS
from transfer.deltas import METHODS
from transfer.errors import UnknownNameError
from transfer.registry import Registry
from transfer.similarity import ESTIMATORS

FRUIT = Registry(
    "fruit",
    {"pear:ripe": "fractions:Fraction", "apple": "decimal:Decimal", "rotten": "no.such.package:Thing"},
    aliases={"pear": "pear:ripe"},
)


def test_names_are_sorted_and_without_aliases():
    assert FRUIT.names() == ["apple", "pear:ripe", "rotten"]


def test_a_name_and_its_alias_give_the_same_thing():
    from fractions import Fraction

    assert FRUIT.get("pear") is FRUIT.get("pear:ripe") is Fraction
    assert FRUIT.resolve("pear") == "pear:ripe"
    assert FRUIT.resolve("apple") == "apple"


def test_nothing_is_imported_before_it_is_asked_for():
    assert "no.such.package" not in sys.modules  # and the registry above was made all the same
    with pytest.raises(ModuleNotFoundError):
        FRUIT.get("rotten")


@pytest.mark.parametrize(("wrong", "close"), [("aple", "apple"), ("paer", "pear"), ("pear:rip", "pear:ripe")])
def test_an_unknown_name_proposes_the_closest(wrong, close):
    with pytest.raises(UnknownNameError, match=f"no fruit named {wrong!r}") as caught:
        FRUIT.get(wrong)
    assert caught.value.hint == f"did you mean {close!r}?"
    assert caught.value.found == "apple, pear:ripe, rotten"


def test_a_name_like_none_points_at_the_list():
    with pytest.raises(UnknownNameError) as caught:
        FRUIT.resolve("zzz")
    assert caught.value.hint == "one of these names"


def test_a_name_that_callers_look_after_is_told_and_proposed_but_is_none_of_its_own():
    registry = Registry("letter", {"a": "decimal:Decimal"}, beside=("auto",))
    assert registry.names() == ["a"]
    with pytest.raises(UnknownNameError) as caught:
        registry.get("atuo")
    assert (caught.value.found, caught.value.hint) == ("auto, a", "did you mean 'auto'?")


def test_later_changes_of_the_mapping_do_not_count():
    targets = {"a": "decimal:Decimal"}
    registry = Registry("letter", targets)
    targets["b"] = "decimal:Decimal"
    assert registry.names() == ["a"]


@pytest.mark.parametrize("registry", [KINDS, METHODS, ESTIMATORS], ids=lambda registry: registry.kind)
def test_every_name_of_ours_leads_to_a_class(registry):
    for name in registry.names():
        assert callable(registry.get(name))
