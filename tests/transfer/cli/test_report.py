"""What is printed of an initialization."""

from __future__ import annotations

from math import inf, nan

import pytest

from transfer.cards import taken_from
from transfer.cli.report import diverged, licences


def recipe(**weights):
    """One source for each name; digits at its end tell sources of one licence apart."""
    return {
        "modules": [{"id": name, "license": name.rstrip("0123456789")} for name in weights],
        "weights": {**weights, "not-merged": 0.0},
    }


def test_each_licence_once_by_the_weight_of_its_sources():
    assert licences(recipe(MIT1=0.2, CC0=0.35, MIT2=0.4, GPL=0.002)) == ["0.60   MIT", "0.35   CC", "<0.01  GPL"]


def test_after_four_licences_the_recipe_has_the_rest():
    many = recipe(A=0.4, B=0.3, C=0.15, D=0.1, E=0.04, F=0.01)
    assert licences(many) == ["0.40   A", "0.30   B", "0.15   C", "0.10   D", "and 2 more in recipe.json"]


def test_each_run_that_diverges_is_told_by_its_last_step_before():
    losses = [(0, 0.7), (2, 0.6), (4, nan), (6, nan), (0, 0.7), (2, 0.5), (0, nan), (2, nan), (0, 0.6), (2, inf)]
    assert diverged([{"step": step, "loss": loss} for step, loss in losses]) == [2, 0]


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ({"name": "best"}, "begin"),
        ({"taken": ["b"], "ingredients": [{"name": "start"}, {"name": "b"}]}, "b"),
        ({"taken": ["b", "start"], "ingredients": [{"name": "start"}, {"name": "b"}]}, "b, begin"),
        ({"ingredients": [{"name": "start"}, {"name": "b"}]}, "begin, b"),
        ({"taken": ["order 2"], "ingredients": [{"name": "order 1"}, {"name": "order 2"}]}, "begin"),
    ],
)
def test_a_soup_is_told_by_the_starts_that_are_in_it(kept, names):
    assert taken_from("begin", kept) == names
