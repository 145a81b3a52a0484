"""What a command prints to go on with works as it stands, whatever the names are."""

from __future__ import annotations

import json
import shlex

import pytest
import tiny
import torch
from datasets import Dataset

from transfer import Initialization
from transfer.backbones import load_backbone
from transfer.deltas import LoRA
from transfer.tasks import Task
from transfer.training import TuneSettings, tune
from zoo import Card, Module, Zoo

COLUMNS = ("--template", "text: {review}", "--label-column", "verdict", "--choices", "bad,good")


def flipped(n: int) -> Task:
    """The reviews with every answer turned round."""
    rows = [{**row, "choices": ["bad", "good"], "label": 1 - row["label"]} for row in tiny.sentiment_rows(n)]
    split = Dataset.from_list(rows)
    return Task(name="flipped", kind="classification", category="sentiment", train=split, dev=split, test=split)


@pytest.fixture
def zoo_of(backbone_folder, tmp_path):
    """Makes (backbone folder, zoo): two LoRA tuned on turned answers for so many steps, from one start."""

    def make(steps: int, learning_rate: float = 2e-3):
        folder = backbone_folder("bert")
        backbone = load_backbone(str(folder), max_length=48)
        method, zoo = LoRA(), Zoo(tmp_path / "my zoo")
        start = method.draw(backbone.model)
        name = zoo.add_start("lora", method.start_settings(backbone.model), backbone.fingerprint, start)
        encoded = backbone.encode(flipped(96).train)
        for seed in range(2):
            settings = TuneSettings(steps=steps, learning_rate=learning_rate, seed=seed)
            tensors = tune(backbone, method, encoded, tensors=start, settings=settings).tensors
            card = Card(
                task=f"flipped-{seed}",
                category="sentiment",
                method="lora",
                settings=method.settings(backbone.model),
                backbone=backbone.name,
                fingerprint=backbone.fingerprint,
                start=name,
            )
            zoo.add(Module.new(card, tensors))
        return folder, zoo

    return make


def next_command(printed: str) -> list[str]:
    """The words of the command in the line after `next:`, without `transfer`."""
    lines = printed.splitlines()
    words = shlex.split(lines[lines.index("next:") + 1])
    assert words[0] == "transfer"
    return words[1:]


@pytest.mark.parametrize("name", ["reviews.csv", "my 'best' reviews.csv"])
@pytest.mark.parametrize("out", [None, "a b"])
def test_from_init_to_evaluate_by_the_printed_commands(name, out, transfer, zoo_of, reviews_csv, tmp_path, monkeypatch):
    folder, zoo = zoo_of(1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    reviews_csv.rename(name)
    chosen = () if out is None else ("--out", out)
    made = transfer(
        *("init", "--target", name, *COLUMNS, "--examples", 16, "--seed", 1),
        *("--backbone", folder, "--zoo", zoo.path, "--max-length", 48, "--no-guard", *chosen),
    )
    assert made.code == 0, made.err
    words = next_command(made.out)
    assert words[0] == "finetune"
    if out is not None:
        assert words[-2:] == ["--start", "a b"]

    tuned = transfer(*words, "--steps", 3)
    assert tuned.code == 0, tuned.err
    words = next_command(tuned.out)
    assert words[0] == "evaluate"

    measured = transfer(*words, "--json")
    assert measured.code == 0, measured.err
    found = json.loads(measured.out)["metrics"]
    assert f"{found['accuracy']:.3f}" in tuned.out.split("after tuning")[1]
    assert f"loss {found['loss']:.3f}" in " ".join(tuned.out.split("after tuning")[1].split())


def test_what_hurts_is_not_saved_and_the_printed_command_starts_from_scratch(
    transfer, zoo_of, reviews_csv, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder, zoo = zoo_of(60, 1e-2)  # clearly the wrong way round
    common = ("--target", reviews_csv, *COLUMNS, "--backbone", folder)
    more = ("--max-length", 48, "--zoo", zoo.path, "--guard-steps", 1)
    made = transfer("init", *common, *more)
    assert made.code == 0, made.err
    said = " ".join(made.out.split())
    assert "verdict: it hurts after 1 steps" in said
    assert "scratch is kept in its place" in said
    assert "licences of the merged" not in said

    kept = Initialization.load("reviews-lora")
    assert kept.recipe["handed_over"] == "scratch"
    assert kept.verdict.outcome == "hurts"
    start = next(iter(zoo)).start()
    assert all(torch.equal(value, start[name]) for name, value in kept.delta.tensors.items())

    tuned = transfer(*next_command(made.out), "--steps", 2, "--json")
    assert tuned.code == 0, tuned.err
    same = transfer("finetune", *common, *more[:4], "--steps", 2, "--out", "scratch", "--json")
    assert same.code == 0, same.err
    assert json.loads(tuned.out)["history"] == json.loads(same.out)["history"]


def test_an_initialization_is_replaced_only_when_asked_and_the_next_command_comes_last(
    transfer, zoo_of, reviews_csv, tmp_path
):
    folder, zoo = zoo_of(2)
    words = (
        *("init", "--target", reviews_csv, *COLUMNS, "--backbone", folder, "--zoo", zoo.path, "--no-guard"),
        *("--out", tmp_path / "out", "--examples", 16, "--max-length", 48),
    )
    made = transfer(*words, "--explain")
    assert made.code == 0, made.err
    *_, explained, following, command = made.out.splitlines()
    assert explained == f"explained in {tmp_path / 'out' / 'report.html'}"
    assert (following, command.startswith("  transfer finetune ")) == ("next:", True)

    before = (tmp_path / "out" / "recipe.json").read_bytes()
    again = transfer(*words)
    assert again.code == 1
    assert "already holds a finished result" in again.err
    assert "--overwrite" in again.err
    assert (tmp_path / "out" / "recipe.json").read_bytes() == before
    assert transfer(*words, "--overwrite").code == 0
    assert not (tmp_path / "out" / "report.html").exists()


def test_without_the_guard_the_merge_is_saved_whatever_it_does(transfer, zoo_of, reviews_csv, tmp_path):
    folder, zoo = zoo_of(2)
    out = tmp_path / "out"
    made = transfer(
        *("init", "--target", reviews_csv, *COLUMNS, "--backbone", folder, "--zoo", zoo.path, "--no-guard"),
        *("--out", out, "--quiet", "--examples", 16, "--max-length", 48),
    )
    assert made.code == 0, made.err
    assert made.out == f"{out}\n"
    kept = Initialization.load(out)
    assert (kept.recipe["handed_over"], kept.verdict) == ("merged", None)
