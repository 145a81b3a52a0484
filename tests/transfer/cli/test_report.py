"""What is printed of an initialization."""

from __future__ import annotations

from transfer.cli.report import licences


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
