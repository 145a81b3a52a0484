"""initialize on tiny backbones: recipe, choices of sources, guard, notes."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import torch
from small import SOURCES, toy_target

from transfer import initialize, score, weigh
from transfer.deltas import METHODS, LoRA
from transfer.ensembling import Verdict, merge
from transfer.errors import ConfigError, SourceError, UnknownNameError
from transfer.initializing import InitConfig
from transfer.training import tune
from zoo import Card, Module, Zoo
from zoo.tensors import digest

QUICK = {"guard_steps": 2, "batch_size": 8}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("method", "arch"),
    [
        (method, arch)
        for method in METHODS.names()
        for arch in ("bert", "t5", "gpt2")
        if arch == "bert" or method not in ("parallel-adapter", "low-rank-adapter", "compacter")  # adapters, there
    ],
)
def test_every_method_and_kind_of_backbone(arch, method, small_zoo, tmp_path):
    backbone, zoo = small_zoo(arch, method)
    before = backbone.choice_logits(toy_target().dev)
    found = initialize(toy_target(), zoo, backbone, method, **QUICK)
    assert found.verdict.outcome in ("helps", "hurts", "unclear")
    assert set(found.recipe["weights"]) == {module.id for module in zoo}
    assert sum(found.recipe["weights"].values()) == pytest.approx(1)
    assert json.loads(json.dumps(found.recipe, allow_nan=False)) == found.recipe
    assert backbone.delta is None
    assert torch.equal(backbone.choice_logits(toy_target().dev), before)
    found.attach(backbone)
    assert backbone.delta.method.method == method
    backbone.detach()


def test_it_is_score_weigh_and_merge(small_zoo):
    backbone, zoo = small_zoo()
    task = toy_target()
    found = initialize(task, zoo, backbone, guard=False, temperature=0.7, top_k=2)
    scores = score(task, zoo, backbone)
    weights = weigh(scores, temperature=0.7, top_k=2)
    assert found.recipe["scores"] == scores.as_dict()
    assert found.recipe["weights"] == weights
    assert equal(found.delta.tensors, merge(zoo, weights).tensors)
    assert found.verdict is None
    assert found.recipe["verdict"] is None


def test_the_recipe_says_how_it_was_made(small_zoo):
    backbone, zoo = small_zoo()
    task = toy_target()
    recipe = initialize(task, zoo, backbone, seed=3, **QUICK).recipe
    assert recipe["schema"] == 1
    assert recipe["estimator"] == "gradient:first-order"
    assert (recipe["temperature"], recipe["top_k"], recipe["how"], recipe["merge"]) == (0.5, None, "softmax", "linear")
    assert recipe["seeds"] == {"run": 3, "examples": 0}
    assert recipe["fingerprint"] == backbone.fingerprint
    assert recipe["target"]["fingerprint"] == task.fingerprint
    assert recipe["target"]["choices"] == ["negative", "positive"]
    assert recipe["start"] == next(iter(zoo)).card.start
    assert recipe["start_sha256"] == digest(dict(zoo.get_start(recipe["start"])))
    assert (recipe["precision"], recipe["device"]) == (backbone.precision, "cpu")
    assert {module["task"] for module in recipe["modules"]} == set(SOURCES)
    assert {"transfer", "torch", "transformers"} <= recipe["versions"].keys()
    assert {"score", "merge", "guard"} <= recipe["seconds"].keys()
    assert recipe["guard"] == {"steps": 2, "batch_size": 8}


@pytest.mark.parametrize(
    ("estimator", "steps", "tunes"),
    [("gradient:first-order", 5, 1), ("parameters:cosine", 20, 1), ("parameters:cosine", 5, 2)],
)
def test_a_page_costs_no_tune_more_and_changes_no_verdict(estimator, steps, tunes, small_zoo, monkeypatch):
    backbone, zoo = small_zoo()
    made = []

    def counted(*args, tensors, settings, **options):
        found = tune(*args, tensors=tensors, settings=settings, **options)
        made.append((options["description"], settings.steps))
        return found

    monkeypatch.setattr("transfer.similarity.target.tune", counted)
    monkeypatch.setattr("transfer.ensembling.guarding.tune", counted)
    plain, drawn = (
        initialize(toy_target(), zoo, backbone, estimator=estimator, guard_steps=steps, explain=explain)
        for explain in (False, True)
    )
    half = len(made) // 2
    assert made[:half] == made[half:]
    assert [what for what, _ in made[half:]].count("tuning from scratch") == tunes
    said = [dataclasses.replace(found.verdict, curves=None, seconds=0) for found in (plain, drawn)]
    assert said[0] == said[1]
    assert plain.recipe["scores"] == drawn.recipe["scores"]
    assert equal(plain.delta.tensors, drawn.delta.tensors)
    curves = drawn.verdict.curves
    assert plain.verdict.curves is None
    for name, rows in curves.items():
        assert [row["step"] for row in rows] == list(range(0, steps + 1, steps // 5))
        assert rows[-1]["calibrated"] == pytest.approx(drawn.verdict.losses[name], rel=1e-6)


def test_recipe_and_verdict_name_the_licences_of_what_was_merged(small_zoo):
    backbone, zoo = small_zoo()
    found = initialize(toy_target(), zoo, backbone, how="best", **QUICK)
    (merged,) = found.recipe["modules"]
    assert merged["license"] == SOURCES[merged["task"]]
    if found.verdict.outcome != "hurts":
        assert found.recipe["licences"] == [merged["license"]]
        assert found.verdict.text.endswith(f"merged from sources under {merged['license']}")


def test_the_same_seed_gives_the_same_initialization(small_zoo):
    backbone, zoo = small_zoo()
    one, two = (initialize(toy_target(), zoo, backbone, **QUICK) for _ in range(2))
    assert equal(one.delta.tensors, two.delta.tensors)
    assert one.verdict.losses == two.verdict.losses


def test_the_target_s_own_task_is_left_out_unless_told_otherwise(small_zoo):
    backbone, zoo = small_zoo()
    task = toy_target(name="films")
    own = zoo.find(task="films")[0].id
    assert own not in initialize(task, zoo, backbone, guard=False).recipe["weights"]
    assert own in initialize(task, zoo, backbone, guard=False, include_own=True).recipe["weights"]
    recipe = initialize(task, zoo, backbone, guard=False, exclude="hotels").recipe
    assert [name.split("-")[0] for name in recipe["weights"]] == ["kettles"]
    assert recipe["exclude"] == ["films", "hotels"]


def test_what_hurts_is_replaced_by_scratch_and_says_so(small_zoo, monkeypatch):
    backbone, zoo = small_zoo()
    losses = {"initialization": 2.0, "scratch": 1.0}
    hurts = Verdict(outcome="hurts", steps=2, n_dev=16, difference=1.0, interval=(0.5, 1.5), losses=losses)
    monkeypatch.setattr("transfer.job.judge", lambda *args, **kwargs: hurts)
    found = initialize(toy_target(), zoo, backbone, **QUICK)
    assert equal(found.delta.tensors, dict(zoo.get_start(found.recipe["start"])))
    assert found.recipe["handed_over"] == "scratch"
    assert found.recipe["licences"] == []
    assert found.recipe["verdict"]["outcome"] == "hurts"
    assert "scratch is kept in its place" in found.verdict.text
    assert "scratch" in found.name


def test_an_initialization_from_which_tuning_diverges_is_replaced_by_scratch(small_zoo, monkeypatch):
    backbone, zoo = small_zoo()

    def wild(modules, *args, **options):
        delta = merge(modules, *args, **options)
        return dataclasses.replace(delta, tensors={n: torch.full_like(t, 1e30) for n, t in delta.tensors.items()})

    monkeypatch.setattr("transfer.job.merge_modules", wild)
    found = initialize(toy_target(), zoo, backbone, **QUICK)
    assert (found.verdict.outcome, found.verdict.difference) == ("hurts", None)
    assert "tuning from it diverged" in found.recipe["verdict"]["text"]
    assert found.recipe["handed_over"] == "scratch"
    assert equal(found.delta.tensors, dict(zoo.get_start(found.recipe["start"])))


def test_the_notes_of_the_task_are_in_the_recipe(small_zoo):
    backbone, zoo = small_zoo()
    found = initialize(toy_target(notes=("label: column 'verdict'",)), zoo, backbone, guard=False)
    assert found.recipe["target"]["notes"] == ["label: column 'verdict'"]


def test_a_name_to_exclude_that_is_nowhere_is_said_with_the_closest(small_zoo):
    backbone, zoo = small_zoo()
    for there in (zoo, list(zoo), iter(list(zoo))):
        lines = []
        found = initialize(toy_target(), there, backbone, guard=False, exclude=["hotel", "films"], say=lines.append)
        assert lines == [
            "nothing is left out by exclude 'hotel': the zoo has no task and no module of that name; "
            "did you mean 'hotels'?"
        ]
        assert len(found.recipe["weights"]) == 2
    lines.clear()
    initialize(toy_target(), zoo, backbone, guard=False, say=lines.append)  # its own task is no one's wish
    assert lines == []


def changed(module, **fields):
    """The module with another card; its tensors differ a little, so that it has its own id."""
    tensors = {name: tensor * 1.001 for name, tensor in module.tensors(dtype=torch.float32).items()}
    return Module.new(module.card.changed(start=None, **fields), tensors)


def test_force_takes_what_fits_in_shape_and_prefers_the_backbone_s_own(small_zoo):
    backbone, zoo = small_zoo()
    own = list(zoo)[:1]
    others = [changed(module, task=f"other-{module.card.task}", fingerprint="1" * 64) for module in zoo]
    wide = {
        name: torch.cat([tensor, tensor], 1 if name.endswith("lora_A") else 0)
        for name, tensor in own[0].tensors(dtype=torch.float32).items()
    }
    odd = [
        Module.new(
            own[0].card.changed(task=f"odd-{n}", fingerprint="2" * 64, start=None), {k: v + n for k, v in wide.items()}
        )
        for n in range(5)
    ]
    lines = []
    found = initialize(
        toy_target(), [*odd, *others, *own], backbone, guard=False, force=True, include_own=True, say=lines.append
    )
    assert list(found.recipe["weights"]) == [own[0].id]
    assert lines[0].startswith("5 of 9 modules are left out, since their tensors have not the shapes")
    assert lines[1].startswith("3 of 4 modules are left out")
    found = initialize(
        toy_target(), [*odd, *others], backbone, guard=False, force=True, include_own=True, say=lines.append
    )
    assert set(found.recipe["weights"]) == {module.id for module in others}
    with pytest.raises(SourceError, match="has the shapes and places of backbone"):
        initialize(toy_target(), odd, backbone, guard=False, force=True, say=lines.append)


def test_modules_of_different_starts_are_averaged_and_that_is_said(small_zoo):
    backbone, zoo = small_zoo()
    method, lines = LoRA(), []
    card = next(iter(zoo)).card.changed(task="elsewhere", start=None)
    other = Module.new(card, method.draw(backbone.model, 5), start=method.draw(backbone.model, 6))
    quick = {"guard": False, "how": "uniform", "say": lines.append}
    found = initialize(toy_target(), [*zoo, other], backbone, merge="linear", **quick)
    assert found.recipe["weights"][other.id] == 0.25
    assert "2 different starts" in lines[-1]
    assert found.recipe["notes"] == lines
    assert (found.recipe["start"], found.recipe["start_sha256"]) == (None, None)


def test_without_dev_the_verdict_is_unclear_and_the_merge_is_kept(small_zoo):
    backbone, zoo = small_zoo()
    task = toy_target()
    found = initialize(dataclasses.replace(task, dev=task.dev.select([])), zoo, backbone, **QUICK)
    assert found.verdict.outcome == "unclear"
    assert "no dev examples" in found.verdict.text
    assert found.recipe["handed_over"] == "merged"


def test_no_relative_is_said_before_any_tuning(small_zoo, monkeypatch):
    backbone, zoo = small_zoo()
    lines = []

    def judge(*args, **kwargs):
        assert lines, "the line comes before the guard tunes"
        return Verdict(outcome="unclear", steps=2, n_dev=0)

    monkeypatch.setattr("transfer.job.judge", judge)
    found = initialize(toy_target(category="nli"), zoo, backbone, say=lines.append, **QUICK)
    assert "no relative of 'toy' among 3 source tasks: none is of category 'nli'" in lines[0]
    assert found.recipe["notes"] == lines
    assert found.recipe["relatives"]["found"] is False
    lines.clear()
    initialize(toy_target(), zoo, backbone, guard=False, say=lines.append)
    assert lines == []


def test_without_say_notes_are_logged(small_zoo, caplog):
    backbone, zoo = small_zoo()
    with caplog.at_level(logging.WARNING):
        initialize(toy_target(category="nli"), zoo, backbone, guard=False)
    assert "no relative" in caplog.text


def test_no_module_that_fits_ends_with_the_command_that_builds_some(tiny_backbone, small_zoo):
    _, zoo = small_zoo()
    other = tiny_backbone("roberta")
    with pytest.raises(SourceError, match=rf"(?s)found: .*try: .*zoo build --backbone {other.name}"):
        initialize(toy_target(), zoo, other)


def test_modules_that_cannot_be_merged_with_the_rest_are_left_out_and_named(small_zoo, tmp_path):
    backbone, zoo = small_zoo()
    method = LoRA(rank=2)
    card = next(iter(zoo)).card.changed(task="odd", settings=method.settings(backbone.model), start=None)
    odd = Module.new(card, method.draw(backbone.model, 1))
    lines = []
    recipe = initialize(toy_target(), [*zoo, odd], backbone, guard=False, merge="linear", say=lines.append).recipe
    assert odd.id not in recipe["weights"]
    assert len(recipe["weights"]) == 3
    assert lines[0].startswith("1 of 4 modules are left out")
    assert odd.id in lines[0]


def test_a_method_with_settings_takes_modules_with_these(small_zoo):
    backbone, zoo = small_zoo()
    method = LoRA(rank=2)
    card = next(iter(zoo)).card.changed(task="odd", settings=method.settings(backbone.model), start=None)
    odd = Module.new(card, method.draw(backbone.model, 1))
    assert list(initialize(toy_target(), [*zoo, odd], backbone, method, guard=False).recipe["weights"]) == [odd.id]
    with pytest.raises(SourceError, match=r"(?s)no 'lora' module acts as LoRA\(.*rank=3.*differs in rank"):
        initialize(toy_target(), zoo, backbone, LoRA(rank=3), guard=False)


@pytest.mark.parametrize(
    ("arch", "name"),
    [("gpt2", "lora"), ("gpt2", "bitfit"), ("t5", "prefix"), ("deberta-v2", "prefix"), ("bert", "parallel-adapter")],
)
def test_a_method_as_an_object_takes_the_modules_that_were_trained_by_it(arch, name, small_zoo):
    """Also where settings are read from the model, as are parts of fused layers, or the shift of positions."""
    backbone, zoo = small_zoo(arch, name)
    found = initialize(toy_target(), zoo, backbone, METHODS.get(name)(), guard=False)
    assert set(found.recipe["weights"]) == set(zoo.ids())


def test_uniform_weights_need_no_scores(small_zoo):
    backbone, zoo = small_zoo("bert", "adapter")
    strangers = [Module.new(m.card.changed(start=None), dict(m.tensors())) for m in zoo]
    notes = []
    found = initialize(toy_target(), strangers, backbone, "adapter", how="uniform", guard=False, say=notes.append)
    assert set(found.recipe["weights"].values()) == {1 / 3}
    assert any("the weights need none" in note for note in notes)
    for settings in ({"how": "softmax"}, {"how": "uniform", "top_k": 2}):
        with pytest.raises(SourceError, match="is not known"):
            initialize(toy_target(), strangers, backbone, "adapter", guard=False, **settings)


def test_modules_of_strangers_without_start_or_signature(small_zoo, tmp_path):
    backbone, _ = small_zoo()
    zoo, method = Zoo(tmp_path / "zoo"), LoRA()
    for seed in range(3):
        card = Card(
            task=f"stranger-{seed}",
            method="lora",
            settings=method.settings(backbone.model),
            backbone=backbone.name,
            fingerprint=backbone.fingerprint,
        )
        tensors = {name: value + 0.01 * seed for name, value in method.draw(backbone.model, seed).items()}
        zoo.add(Module.new(card, tensors))
    found = initialize(toy_target(), zoo, backbone, **QUICK)
    assert found.recipe["start"] is None
    assert len(found.recipe["weights"]) == 3
    assert found.recipe["merge"] == "svd"
    assert any("svd" in note and "the start of 3 of 3 modules is not known" in note for note in found.recipe["notes"])


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"temperature": 0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"examples": 0}, "examples"),
        ({"guard_steps": 0}, "guard_steps"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_outside_their_range(settings, names):
    with pytest.raises(ConfigError, match=names):
        InitConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "close"),
    [
        ({"method": "lora2"}, "lora"),
        ({"estimator": "gradients"}, "gradient"),
        ({"how": "softmx"}, "softmax"),
        ({"merge": "liner"}, "linear"),
    ],
)
def test_unknown_names_suggest_the_close_one(settings, close):
    with pytest.raises(UnknownNameError, match=f"did you mean '{close}'"):
        InitConfig(**settings)
