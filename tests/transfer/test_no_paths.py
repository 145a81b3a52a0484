"""What is handed on to others tells no path of the machine that it was made on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small
import tiny

from transfer import finetune, initialize
from transfer.backbones import load_backbone
from transfer.paths import without_folders
from zoo import Zoo


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """A backbone loaded from an absolute folder, and the folder above it."""
    folder = tmp_path_factory.mktemp("ann") / "my-bert"
    tiny.tiny_model("bert").save_pretrained(folder)
    tiny.tokenizer_for("bert").save_pretrained(folder)
    return load_backbone(folder), folder.parent


def written(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.json")))


def test_cards_recipes_and_configs_of_peft_have_the_folder_s_name_alone(at, tmp_path):
    backbone, above = at
    zoo = Zoo(tmp_path / "zoo")
    quick = {"steps": 2, "batch_size": 8, "eval_every": 2, "add_to": zoo}
    for name in ("films", "hotels"):
        module = finetune(small.toy_target(name=name), backbone, method="lora", **quick).module
        assert module.card.backbone == "my-bert"
    found = initialize(small.toy_target(), zoo, backbone, "lora", guard=False)
    found.save(tmp_path / "toy-lora")
    zoo.export(module.id, tmp_path / "out")
    for folder in (tmp_path / "zoo", tmp_path / "toy-lora", tmp_path / "out"):
        text = written(folder)
        assert '"my-bert"' in text
        assert str(above) not in text
    config = json.loads((tmp_path / "toy-lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-bert"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/home/ann/my-bert/", "my-bert"),
        ("~/my-bert", "my-bert"),
        ("google/bert", "google/bert"),
        ("./b", "./b"),
        ("/", "/"),
    ],
)
def test_a_name_without_its_folders(name, told):
    assert without_folders(name) == told
