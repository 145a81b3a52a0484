"""A mixed zoo by command: modules of one start beside PEFT checkpoints of strangers, merged, tuned and evaluated."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from small import make_zoo

from transfer.backbones import load_backbone

COLUMNS = ("--input-column", "review", "--label-column", "verdict", "--choices", "bad,good")


@pytest.fixture
def mixed(transfer, backbone_folder, tmp_path):
    """(backbone folder, zoo): three modules of one start, and two checkpoints by PEFT of other ranks and places."""
    import peft

    folder = backbone_folder("bert")
    make_zoo(load_backbone(str(folder), max_length=48), "lora", tmp_path / "zoo")
    kinds = {"books": (2, ["query", "value"], False), "toys": (16, ["query", "key"], True)}
    for number, (name, (rank, places, rslora)) in enumerate(kinds.items()):
        torch.manual_seed(number)
        config = peft.LoraConfig(
            r=rank, lora_alpha=8, target_modules=places, use_rslora=rslora, init_lora_weights=False
        )
        peft.get_peft_model(tiny.tiny_model("bert"), config).save_pretrained(tmp_path / "adapters" / name)
        added = ("zoo", "add", tmp_path / "adapters" / name, "--backbone", folder, "--zoo", tmp_path / "zoo")
        assert transfer(*added).code == 0
    return folder, tmp_path / "zoo"


def test_one_command_merges_a_mixed_zoo_says_how_and_what_comes_out_is_tuned_and_evaluated(
    mixed, transfer, reviews_csv, tmp_path
):
    folder, zoo = mixed
    target = ("--target", reviews_csv, *COLUMNS, "--backbone", folder, "--zoo", zoo, "--max-length", 48)
    out, quick = tmp_path / "out", ("--examples", 16, "--guard-steps", 1)
    made = transfer("init", *target, *quick, "--out", out)
    assert made.code == 0, made.err
    said = " ".join((made.out + made.err).split())
    assert "merged by svd, the sum of products B A cut to a rank" in said
    assert "5 source modules scored" in said
    recipe = json.loads((out / "recipe.json").read_text())
    assert (recipe["merge"], recipe["merge_options"]) == ("svd", {})
    tuned = transfer("finetune", *target, "--examples", 16, "--start", out, "--steps", 2, "--out", tmp_path / "t")
    assert tuned.code == 0, tuned.err
    told = transfer("evaluate", "--delta", tmp_path / "t", *target, "--json")
    assert told.code == 0, told.err


def test_options_of_rules_and_blocks(mixed, transfer, reviews_csv, tmp_path):
    folder, zoo = mixed
    target = ("--target", reviews_csv, *COLUMNS, "--backbone", folder, "--zoo", zoo, "--max-length", 48)
    common = ("init", *target, "--examples", 8, "--no-guard", "--json", "--out", tmp_path / "out", "--overwrite")
    for flags, options in (
        (("--merge", "svd", "--rank", 3), {"rank": 3}),
        (("--merge", "svd", "--energy", 0.9), {"energy": 0.9}),
        (("--merge", "knots", "--density", 0.5, "--per-block"), {"density": 0.5}),
    ):
        made = transfer(*common, *flags)
        assert made.code == 0, made.err
        recipe = json.loads(made.out)
        assert (recipe["merge"], recipe["merge_options"]) == (flags[1], options)
        assert (recipe["block_weights"] is not None) == ("--per-block" in flags)
    refused = transfer(*common, "--merge", "ties", "--rank", 3)
    assert refused.code == 1
    assert "merging by 'ties' has no option 'rank'" in refused.err
