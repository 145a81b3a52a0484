"""initialize with every merge rule, per block, and with modules of strangers: init, guard, save, finetune, evaluate."""

from __future__ import annotations

import pytest
import torch
from small import toy_target

from transfer import evaluate, finetune, initialize
from transfer.deltas import LoRA
from transfer.ensembling import MERGES
from transfer.errors import ConfigError, SourceError
from transfer.initialization import Initialization
from transfer.initializing import InitConfig
from transfer.similarity.activations import input_grams
from zoo import Card, Module

QUICK = {"guard_steps": 2, "batch_size": 8}


def stranger(backbone, rank, seed):
    method = LoRA(rank=rank, alpha=3 * rank)
    settings = method.settings(backbone.model)
    card = Card(task=f"s{seed}", method="lora", settings=settings, backbone="x", fingerprint=backbone.fingerprint)
    return Module.new(card, {name: tensor + 0.05 for name, tensor in method.draw(backbone.model, seed).items()})


@pytest.mark.parametrize("how", MERGES.names())
def test_every_rule_goes_all_the_way(how, small_zoo, tmp_path):
    rule = MERGES.get(how)
    method = "adapter" if how == "aligned" else "lora"
    backbone, zoo = small_zoo("bert", method)
    options = {}
    if how == "regmean":
        rows = backbone.encode(toy_target().train)
        options["grams"] = {m.id: input_grams(backbone, rows, m.card.settings["places"]) for m in zoo}
    made = initialize(toy_target(), zoo, backbone, method, merge=how, merge_options=options, **QUICK)
    assert made.recipe["merge"] == how
    assert "grams" not in made.recipe["merge_options"]
    assert made.verdict.outcome in ("helps", "hurts", "unclear")
    if made.recipe["handed_over"] == "merged":
        assert (made.recipe["start"] is not None) == rule.leaves_start
    read = Initialization.load(made.save(tmp_path / "init"))
    tuned = finetune(toy_target(), backbone, read, steps=2, batch_size=8, zoo=zoo)
    assert tuned.delta.method == read.delta.method
    assert tuned.after.metrics == evaluate(toy_target(), backbone, tuned.delta).metrics
    assert (tuned.module.start() is not None) == (made.recipe["start"] is not None)


def test_a_mixed_zoo_is_scored_weighed_and_merged_in_one_call(small_zoo):
    backbone, zoo = small_zoo()
    odd = [stranger(backbone, 2, 7), stranger(backbone, 16, 8)]
    lines: list[str] = []
    made = initialize(toy_target(), [*zoo, *odd], backbone, say=lines.append, **QUICK)
    assert set(made.recipe["weights"]) == {*(m.id for m in zoo), *(m.id for m in odd)}
    assert made.recipe["merge"] == "svd"
    assert sum(line.startswith("merged by svd, the sum of products") for line in lines) == 1
    if made.recipe["handed_over"] == "merged":
        assert made.delta.method.rank == 16
        assert made.recipe["start"] is None


def test_an_estimator_that_compares_tensors_leaves_other_ranks_out_and_says_so(small_zoo):
    backbone, zoo = small_zoo()
    lines: list[str] = []
    settings = {"estimator": "parameters:cosine", "guard": False, "say": lines.append}
    made = initialize(toy_target(), [*zoo, stranger(backbone, 2, 7)], backbone, **settings)
    assert len(made.recipe["weights"]) == 3
    assert "parameters:cosine cannot compare them with the rest" in lines[0]


def test_adapters_of_unknown_starts_are_averaged_with_a_reason_to_doubt(small_zoo):
    backbone, zoo = small_zoo("bert", "adapter")
    unknown = [Module.new(m.card.changed(start=None), dict(m.tensors()), m.signature) for m in zoo]
    lines: list[str] = []
    settings = {"estimator": "prediction:loss", "guard": False, "say": lines.append}
    made = initialize(toy_target(), unknown, backbone, "adapter", **settings)
    assert made.recipe["merge"] == "linear"
    assert lines[-1].startswith("the start of 3 of the 3 merged modules is not known: averaged tensor by tensor")


@pytest.mark.parametrize("estimator", ["gradient:first-order", "gradient:grand", "embedding:hidden"])
@pytest.mark.parametrize(("arch", "method"), [("bert", "lora"), ("t5", "adapter")])
def test_per_block(arch, method, estimator, small_zoo):
    backbone, zoo = small_zoo(arch, method)
    made = initialize(toy_target(), zoo, backbone, method, estimator=estimator, per_block=True, guard=False)
    table = torch.tensor([made.recipe["block_weights"][module.id] for module in zoo])
    assert table.shape == (3, 2 if arch == "bert" else 4)
    torch.testing.assert_close(table.sum(dim=0), torch.ones(table.shape[1]))
    assert not torch.allclose(table[:, 0], table[:, 1], atol=1e-6)
    names = [name for name in made.delta.tensors if name.startswith(("encoder.block.0.", "encoder.layer.0."))]
    assert names
    for name in names:
        expected = sum(w * m.tensors()[name].float() for w, m in zip(table[:, 0], zoo, strict=True))
        torch.testing.assert_close(made.delta.tensors[name], expected, rtol=1e-4, atol=1e-5)


def test_per_block_where_it_cannot_be(small_zoo):
    with pytest.raises(ConfigError, match="prediction:loss does not score blocks one by one"):
        InitConfig(estimator="prediction:loss", per_block=True)
    backbone, zoo = small_zoo("bert", "soft-prompt")
    with pytest.raises(ConfigError, match="soft-prompt modules are in no block"):
        initialize(toy_target(), zoo, backbone, "soft-prompt", per_block=True, guard=False)


def test_regmean_by_name_says_whose_task_it_cannot_find(small_zoo):
    backbone, zoo = small_zoo()
    with pytest.raises(SourceError, match="needs examples of the task that 'films-lora-"):
        initialize(toy_target(), zoo, backbone, merge="regmean", guard=False)


def test_regmean_reads_the_source_tasks_by_name(small_zoo, monkeypatch):
    monkeypatch.delenv("TRANSFER_TASKS", raising=False)
    backbone, zoo = small_zoo()
    named = [
        Module.new(m.card.changed(task=task), dict(m.tensors()), start=dict(m.start()))
        for m, task in zip(zoo, ("sentiment", "nli"), strict=False)
    ]
    made = initialize(toy_target(), named, backbone, merge="regmean", guard=False)
    assert made.recipe["merge"] == "regmean"
    assert "inputs of 2 source tasks were read" in made.recipe["notes"][-1]


def test_options_of_another_rule_are_refused_before_any_work():
    with pytest.raises(ConfigError, match="'linear' has no option 'density'"):
        InitConfig(merge="linear", merge_options={"density": 0.5})
