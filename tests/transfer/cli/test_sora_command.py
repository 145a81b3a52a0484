"""`transfer finetune --method sora`: one xi, a schedule, pruning, and what is refused."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from transfer.deltas import LoRA, ranks_of
from zoo import Module

COLUMNS = ("--input-column", "review", "--label-column", "verdict", "--choices", "bad,good")


@pytest.fixture
def finetune(transfer, backbone_folder, reviews_csv, tmp_path):
    """Runs a quick SoRA on the reviews."""
    common = ("--target", reviews_csv, *COLUMNS, "--backbone", backbone_folder("bert"), "--zoo", tmp_path / "zoo")
    quick = ("--max-length", 48, "--examples", 16, "--steps", 4, "--method", "sora")
    return lambda *words: transfer("finetune", *common, *quick, *words)


def test_one_xi_leaves_fewer_ranks_and_is_trained_on(finetune, tmp_path):
    ran = finetune("--xi", 0.1, "--keep", "last", "--out", tmp_path / "tuned", "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    stored = Module.load(tmp_path / "tuned")
    assert stored.card.method == "sora"
    assert stored.card.settings["xi"] == 0.1
    assert said["sparsity"]["ranks"] == ranks_of(stored).kept
    assert said["sparsity"]["share"] < 0.9
    on = finetune(
        *("--start", tmp_path / "tuned", "--xi", 0.2, "--keep", "last", "--out", tmp_path / "on", "--json"),
    )
    assert on.code == 0, on.err
    assert json.loads(on.out)["sparsity"]["share"] < said["sparsity"]["share"]
    assert Module.load(tmp_path / "on").card.settings["xi"] == 0.2


def test_a_schedule_is_reported_drawn_and_pruned(finetune, tmp_path):
    words = ("--xi", 0.3, "--schedule", "linear", "--stages", 3, "--stage-steps", 2, "--keep", "last", "--prune")
    ran = finetune(*words, "--picture", tmp_path / "ranks.png", "--out", tmp_path / "pruned")
    assert ran.code == 0, ran.err
    assert "memorisation" in ran.out
    assert "parameters kept" in ran.out
    assert max(len(line) for line in ran.out.splitlines() if str(tmp_path) not in line) <= 80
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".pruned*"))
    stored = Module.load(tmp_path / "pruned")
    assert stored.card.method == "lora"
    assert "-sora-" in stored.card.provenance["pruned_from"]
    assert (tmp_path / "pruned" / "adapter_model.safetensors").is_file()


def test_the_pruned_result_is_the_sora_and_smaller(tiny_backbone, tmp_path):
    from small import toy_target

    from transfer.finetuning import finetune
    from transfer.training import XiSchedule

    backbone, task = tiny_backbone("bert"), toy_target()
    found = finetune(
        task, backbone, method="sora", steps=4, schedule=XiSchedule(values=(0, 0.2), stage_steps=3), keep="last"
    )
    assert found.sparsified is not None
    assert [stage.xi for stage in found.sparsified.stages] == [0, 0.2]
    assert found.delta.method.xi == 0.2
    pruned = found.pruned()
    rows = backbone.encode(task.test, task.fields)
    logits = []
    for delta in (found, pruned):
        with backbone.use(delta):
            logits.append(backbone.outputs(rows)[0])
    assert torch.allclose(*logits, rtol=1e-5, atol=1e-5)
    assert pruned.module.card.metrics == found.module.card.metrics
    assert ranks_of(pruned).parameters == ranks_of(found).parameters < ranks_of(found).start_parameters
    assert type(pruned.delta.method) is LoRA
    sizes = [
        (result.save(tmp_path / name) / file).stat().st_size
        for result, name, file in (
            (found, "sora", "delta.safetensors"),
            (pruned, "lora", "adapter_model.safetensors"),
        )
    ]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--schedule", "linear"), "needs its last value"),
        (("--schedule", "0,1", "--xi", 1), "--xi says nothing"),
        (("--schedule", "0,x"), "no schedule '0,x'"),
        (("--stage-steps", 2), "are for a schedule"),
        (("--schedule", "0,1", "--stages", 3), "as many stages as values"),
        (("--xi", -1), "xi must be at least 0"),
        (("--threshold", "hard"), "threshold must be one of soft, published-code"),
        (("--picture", "ranks.txt"), "does not end as a picture"),
    ],
)
def test_options_that_do_not_go_together_are_refused(finetune, tmp_path, words, said):
    ran = finetune(*words, "--out", tmp_path / "tuned")
    assert ran.code == 1
    assert said in ran.err
    assert not (tmp_path / "tuned").exists()


def test_options_of_sora_are_refused_for_other_methods(transfer, reviews_csv):
    for words in (("--xi", 1), ("--prune",), ("--schedule", "linear"), ("--scale-xi",), ("--stages", 3)):
        ran = transfer("finetune", "--target", reviews_csv, *COLUMNS, "--method", "lora", *words)
        assert ran.code == 1
        assert "for SoRA, and the method is lora" in ran.err


def test_a_zoo_of_soras_is_built_and_merged(transfer, backbone_folder, reviews_csv, tmp_path):
    import small

    backbone = tiny.tiny_backbone("bert")
    small.make_zoo(backbone, "sora", tmp_path / "zoo")
    words = ("--target", reviews_csv, *COLUMNS, "--backbone", backbone_folder("bert"), "--zoo", tmp_path / "zoo")
    ran = transfer(
        "init", *words, "--method", "sora", "--examples", 16, "--no-guard", "--out", tmp_path / "merged", "--json"
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["method"] == "sora"
