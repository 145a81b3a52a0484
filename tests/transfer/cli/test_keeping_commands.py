"""`transfer init --weighting` on examples, and `transfer finetune --keep`."""

from __future__ import annotations

import json

import pytest
import small
import tiny

from zoo import Module

COLUMNS = ("--input-column", "review", "--label-column", "verdict", "--choices", "bad,good")


@pytest.fixture
def common(backbone_folder, reviews_csv, tmp_path):
    """Words of every command here: a target, a tiny backbone, and a zoo of three modules on it."""
    from transfer.backbones import load_backbone

    folder = backbone_folder("bert")
    zoo = small.make_zoo(load_backbone(str(folder)), "lora", tmp_path / "zoo")
    words = ("--target", reviews_csv, *COLUMNS, "--backbone", folder, "--max-length", 48, "--examples", 16)
    return (*words, "--zoo", zoo.path)


def test_weights_on_examples_then_a_tune_that_keeps_the_start(common, transfer, tmp_path):
    begin = tmp_path / "begin"
    ran = transfer(
        "init", *common, "--weighting", "learned", "--per-block", "--budget", 60, "--out", begin, "--no-guard"
    )
    assert ran.code == 0, ran.err
    assert "weights by learned, on the target's examples" in ran.out + ran.err
    recipe = json.loads((begin / "recipe.json").read_text())
    assert recipe["how"] == recipe["weighting"]["name"] == "learned"
    assert recipe["weighting"]["settings"]["budget"] == 60
    assert {len(row) for row in recipe["block_weights"].values()} == {2}
    quick = ("--start", begin, "--steps", 2, "--out", tmp_path / "tuned")
    ran = transfer("finetune", *common, *quick, "--keep", "mixing", "--folds", 2, "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)["keep"]
    assert (said["name"], said["folds"]) == ("mixing", 2)
    assert sorted(said["sources"]) == sorted(recipe["scores"])
    assert Module.load(tmp_path / "tuned").card.provenance["keep"] == said
    other = next(iter(recipe["scores"]))
    ran = transfer("finetune", *common, *quick, "--overwrite", "--keep", "soup", "--soup-with", other)
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    assert "kept soup of 4 steps" in said
    assert f"after tuning from {begin}, {other}:" in said
    assert "tuned from step dev loss calibrated dev accuracy" in said
    assert f"{begin.name} 0 0." in said
    assert f"{other} 0 0." in said


def test_what_does_not_go_together_is_refused_before_anything_is_read(transfer, tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.cli.options.read_backbone", None)
    monkeypatch.setattr("transfer.cli.options.read_task", None)
    for words, what in [
        (("--weighting", "greedy", "--per-block"), "one weight for each module"),
        (("--weighting", "best", "--budget", 3), "takes no budget"),
        (("--weighting", "greedy", "--budget", 0), "above 0"),
        (("--how", "lerned"), "did you mean 'learned'"),
    ]:
        ran = transfer("init", "--target", "boolq", "--out", tmp_path / "out", *words)
        assert ran.code == 1
        assert what in ran.err


def test_a_way_to_keep_is_refused_before_the_backbone_is_read(transfer, tmp_path, monkeypatch):
    path = tmp_path / "task"
    path.mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in tiny.sentiment_rows(12))
    for split in ("train", "dev", "test"):
        (path / f"{split}.jsonl").write_text(rows)
    monkeypatch.setattr("transfer.cli.options.read_backbone", None)
    for words, what in [
        (("--keep", "soop"), "did you mean 'soup'"),
        (("--keep", "soup", "--folds", 3), "nothing that folds could choose"),
        (("--keep", "best", "--folds", 1), "folds must lie between"),
    ]:
        ran = transfer("finetune", "--target", path, "--out", tmp_path / "out", *words)
        assert ran.code == 1
        assert what in ran.err, ran.err
