"""The whole way on a user's own things: a CSV, a folder of PEFT checkpoints, three kinds of backbone."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

COLUMNS = ("--input-column", "review", "--label-column", "verdict", "--choices", "bad,good")
TARGETS = {"bert": ["query", "value"], "gpt2": ["c_attn"], "t5": ["q", "v"]}


@pytest.fixture
def adapters(tmp_path):
    """Makes PEFT LoRA checkpoints, written by peft itself, for a tiny model."""
    import peft

    def make(arch: str) -> list:
        folders = []
        for number, name in enumerate(("films", "books", "hotels")):
            torch.manual_seed(number)
            config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS[arch], init_lora_weights=False)
            peft.get_peft_model(tiny.tiny_model(arch), config).save_pretrained(tmp_path / "adapters" / name)
            folders.append(tmp_path / "adapters" / name)
        return folders

    return make


@pytest.mark.parametrize("arch", sorted(TARGETS))
def test_from_peft_checkpoints_and_a_csv_to_predictions(
    arch, transfer, backbone_folder, adapters, reviews_csv, tmp_path
):
    backbone, zoo = backbone_folder(arch), tmp_path / "zoo"
    added = transfer("zoo", "add", *adapters(arch), "--backbone", backbone, "--zoo", zoo, "--json")
    assert added.code == 0, added.err
    assert [name.rsplit("-", 2)[0] for name in json.loads(added.out)["added"]] == ["films", "books", "hotels"]

    common = ("--backbone", backbone, "--zoo", zoo, "--max-length", 48)
    out = tmp_path / "reviews-lora"
    made = transfer(
        "init",
        "--target",
        reviews_csv,
        *COLUMNS,
        *common,
        "--examples",
        16,
        "--guard-steps",
        2,
        "--out",
        out,
        "--json",
        "--explain",
    )
    assert made.code == 0, made.err
    recipe = json.loads(made.out)
    assert len(recipe["scores"]) == 3
    assert sum(recipe["weights"].values()) == pytest.approx(1)
    assert recipe["verdict"]["outcome"] in ("helps", "hurts", "unclear")
    assert (out / "adapter_config.json").is_file()
    assert "The short tune, with and without" in (out / "report.html").read_text(encoding="utf-8")

    tuned = tmp_path / "tuned"
    ended = transfer(
        "finetune", "--target", reviews_csv, *COLUMNS, *common, "--start", out, "--steps", 4, "--out", tuned, "--json"
    )
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert 0 <= result["after"]["metrics"]["accuracy"] <= 1
    assert result["history"][0]["step"] == 0

    again = transfer("evaluate", "--target", reviews_csv, *COLUMNS, *common, "--delta", tuned, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["metrics"]["loss"] == pytest.approx(result["after"]["metrics"]["loss"], abs=1e-5)

    answers = tmp_path / "answers.jsonl"
    predicted = transfer(
        "predict", "--file", reviews_csv, "--input-column", "review", "--delta", tuned, *common, "--out", answers
    )
    assert predicted.code == 0, predicted.err
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == 120
    assert {line["answer"] for line in lines} <= {"bad", "good"}
    assert all(sum(line["probabilities"]) == pytest.approx(1, abs=1e-4) for line in lines)


def test_predict_says_which_columns_were_guessed_apart_from_the_answers(transfer, backbone_folder, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,review\n1,warm and funny\n2,dull and slow\n")
    words = ("predict", "--file", path, "--choices", "bad,good", "--backbone", backbone_folder("bert"))
    ran = transfer(*words)
    assert ran.code == 0, ran.err
    assert "note: input: text: {review}" in ran.err
    assert len(ran.out.splitlines()) == 2
    assert "note" not in transfer(*words, "--quiet").err
    assert len(json.loads(transfer(*words, "--json").out)) == 2


def test_no_module_for_this_backbone_ends_with_the_build_command(transfer, backbone_folder, reviews_csv, tmp_path):
    backbone = backbone_folder("bert")
    ran = transfer("init", "--target", reviews_csv, *COLUMNS, "--backbone", backbone, "--zoo", tmp_path / "none")
    assert ran.code == 1
    first, rest = ran.err.split("\n", 1)
    assert first == f"note: there is no zoo {tmp_path / 'none'}; only the starter zoo is searched"
    assert rest.startswith("error: no 'lora' module for backbone")
    assert f"transfer zoo build --backbone {backbone}" in ran.err
    assert "Traceback" not in ran.err


def test_a_checkpoint_needs_its_backbone_named(transfer, adapters, tmp_path):
    ran = transfer("zoo", "add", adapters("bert")[0], "--zoo", tmp_path / "zoo")
    assert ran.code == 1
    assert "--backbone" in ran.err
    assert transfer("zoo", "ls", "--zoo", tmp_path / "zoo", "--task", "films", "--json").out.strip() == "[]"


def test_a_checkpoint_of_another_size_is_refused(transfer, adapters, backbone_folder, tmp_path):
    ran = transfer("zoo", "add", adapters("gpt2")[0], "--backbone", backbone_folder("bert"), "--zoo", tmp_path / "zoo")
    assert ran.code == 1
    assert "does not" in ran.err
