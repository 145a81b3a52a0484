"""Folders of initializations that were changed, cut short or written by a newer version."""

from __future__ import annotations

import json

import pytest
import small

from transfer import Initialization, initialize
from transfer.errors import ConfigError
from zoo import ChecksumError


@pytest.fixture
def saved(small_zoo, tmp_path):
    """The folder of an initialization with a verdict, and what was saved there."""
    backbone, zoo = small_zoo("bert", "lora")
    made = initialize(small.toy_target(), zoo, backbone, "lora", guard_steps=1, batch_size=8, temperature=1.0)
    return made.save(tmp_path / "there"), made


def test_a_changed_file_is_noticed(saved):
    folder, _ = saved
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError):
        Initialization.load(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda recipe: {**recipe, "schema": 99}, "has schema 99"),
        (lambda recipe: {**recipe, "schema": "1"}, "is not a recipe"),
        (lambda recipe: {name: value for name, value in recipe.items() if name != "saved"}, "damaged"),
        (lambda recipe: {**recipe, "saved": {"front": "", "files": {"../x": "0"}}}, "names the file '../x'"),
        (lambda recipe: [], "is not a recipe"),
        (lambda recipe: {**recipe, "saved": {"front": "", "files": []}}, "files is a list"),
        (lambda recipe: {**recipe, "saved": {"front": "", "files": {}}}, "no files"),
        (lambda recipe: {**recipe, "saved": {**recipe["saved"], "front": None}}, "front is a NoneType"),
        (lambda recipe: {**recipe, "settings": []}, "settings is a list"),
        (lambda recipe: {**recipe, "verdict": "helps"}, "verdict is a str"),
        (lambda recipe: {**recipe, "verdict": {"outcome": "helps"}}, "the verdict in .* is damaged"),
        (lambda recipe: {**recipe, "verdict": {**recipe["verdict"], "interval": [1]}}, "the verdict in .* is damaged"),
    ],
)
def test_a_damaged_recipe_is_refused(change, says, saved):
    folder, _ = saved
    path = folder / "recipe.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=says):
        Initialization.load(folder)


def test_fields_of_a_verdict_that_only_a_newer_version_knows_are_passed_over(saved):
    folder, made = saved
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["verdict"]["hindsight"] = 1
    path.write_text(json.dumps(recipe))
    assert Initialization.load(folder).verdict == made.verdict


def test_a_file_that_is_missing_is_named(saved):
    folder, _ = saved
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks adapter_model\.safetensors"):
        Initialization.load(folder)


def test_a_folder_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no initialization in"):
        Initialization.load(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        Initialization.load(tmp_path)
