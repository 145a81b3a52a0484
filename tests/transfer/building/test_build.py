"""A build: what passes is stored, what does not is told, and what is done is not done again."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import tiny
import torch
from small_tasks import FAST, sentiment, write_task

from transfer.backbones import load_backbone
from transfer.building import BuildSettings, build, build_zoo, work
from transfer.building.records import Records
from transfer.deltas import METHODS, Delta
from transfer.errors import BackboneError, ConfigError, DataError, TransferError, UnknownNameError
from transfer.training import measure
from zoo import Zoo


def built(tasks, out, settings, **more):
    said = []
    return build_zoo(tasks, out, settings, say=said.append, **more), said


def test_processes_train_judge_and_store(finished):
    out, result, said = finished
    assert {(record.task, record.method) for record in result.records} == {("moods", "lora"), ("chance", "lora")}
    assert list(result.left_out) == ["chance lora"]
    assert result.left_out["chance lora"].startswith("not clearly better than")
    [module] = Zoo(out)
    assert result.kept == [module.id]
    assert Zoo(out).verify() == []
    assert any(line.startswith("moods lora: accuracy module 1.000") and line.endswith("kept") for line in said)
    assert said[-1] == f"stored {module.id}"


def test_a_record_says_what_the_stored_tensors_do(finished, settings):
    records = Records(finished[0])
    record, tensors = records.get("moods", "lora"), records.tensors("moods", "lora")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    backbone = load_backbone(settings.backbone, precision="fp32", max_length=64)
    dev = backbone.encode(sentiment(1))
    bare = measure(backbone, dev)
    with backbone.use(METHODS.get("lora")(), {name: value.float() for name, value in tensors.items()}):
        found = measure(backbone, dev)
    assert record.metrics["dev"] == pytest.approx(found.metrics(), abs=1e-5)
    assert record.metrics["untrained_dev"] == pytest.approx(bare.metrics(), abs=1e-5)
    assert record.metrics["majority_dev"]["accuracy"] == 0.5
    assert record.sizes == {"train": 32, "dev": 32, "test": 32}
    assert (record.steps, record.seed, record.batch_size) == (12, 0, 8)
    assert (record.learning_rate, record.fingerprint) == (2e-2, backbone.fingerprint)


def test_a_module_has_its_start_card_and_signature(finished, settings):
    [module] = Zoo(finished[0])
    card = module.card
    assert (card.task, card.method, card.category, card.license) == ("moods", "lora", "sentiment", "MIT")
    assert (card.max_length, card.seed) == (64, 0)
    assert card.data["source"] == "written for this test"
    assert card.metrics["dev"]["accuracy"] > card.metrics["untrained"]["dev"]["accuracy"]
    backbone = load_backbone(settings.backbone)
    start = METHODS.get("lora")().draw(backbone.model, 0)
    kept = module.start()
    assert all(torch.equal(kept[name].float(), start[name]) for name in start)
    assert module.signature.centroid.shape == (32,)
    with backbone.use(Delta.from_module(module)):
        assert measure(backbone, backbone.encode(sentiment(2))).accuracy == card.metrics["test"]["accuracy"]


def test_what_is_done_is_not_done_again(tasks, copied, settings, in_process, monkeypatch):
    trained = []
    train = work.train

    def watched(job):
        trained.append(job.task)
        return train(job)

    monkeypatch.setattr(work, "train", watched)
    result, _ = built(tasks, copied, settings)
    assert trained == []
    assert len(Zoo(copied)) == len(result.kept) == 1
    (copied / ".build" / "chance+lora.json").unlink()
    result, _ = built(tasks, copied, settings)
    assert trained == ["chance"]
    assert len(result.records) == 2


def test_a_build_that_dies_on_the_way_goes_on(tasks, copied, settings, in_process, monkeypatch):
    def dies(job):
        raise KeyboardInterrupt

    (copied / ".build" / "chance+lora.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(work, "train", dies)
        with pytest.raises(KeyboardInterrupt):
            built(tasks, copied, settings)
    result, _ = built(tasks, copied, settings)
    assert {record.task for record in result.records} == {"moods", "chance"}
    assert len(result.kept) == 1


def test_all_methods_and_the_report(tasks, tmp_path, settings, in_process):
    out = tmp_path / "zoo"
    rates = dataclasses.replace(FAST, learning_rate=None, steps=4)  # None: each method's own
    settings = dataclasses.replace(settings, methods=tuple(METHODS.names()), tune=rates, criterion=-1e12)
    result, _ = built(tasks, out, settings, only=["moods"])
    assert {r.method: r.learning_rate for r in result.records} == {
        name: METHODS.get(name).learning_rate for name in METHODS.names()
    }
    assert {module.card.start for module in Zoo(out)} == {path.stem for path in (out / "starts").iterdir()}
    report = json.loads((out / "build.json").read_text())
    assert report["kept"] == sorted(result.kept)
    assert len(result.kept) == len(METHODS.names())
    assert report["left_out"] == result.left_out
    assert [row["method"] for row in report["results"]] == METHODS.names()
    assert all(0 <= row["test_accuracy"] <= 1 for row in report["results"])


def test_only_so_many_are_kept_the_clearest_first(tasks, copied, settings, in_process):
    result, _ = built(tasks, copied, dataclasses.replace(settings, criterion=-1e12, most_tasks=1))
    assert [module.card.task for module in Zoo(copied)] == ["moods"]
    assert result.left_out == {"chance lora": "1 other tasks are kept before it"}


def test_tasks_that_cannot_be_built_are_told(tasks, copied, settings, in_process):
    write_task(tasks / "closed", sentiment, license="CC BY-NC 4.0")
    write_task(tasks / "Loud Name", sentiment)
    write_task(tasks / "scores", sentiment, kind="regression")
    write_task(tasks / "broken", sentiment)
    (tasks / "broken" / "dev.jsonl").write_text("{not json\n")
    (tasks / "moods" / "task.json").unlink()  # a folder without one is a task all the same
    result, said = built(tasks, copied, settings)
    told = result.left_out
    assert told["closed"] == "its licence forbids commercial use: CC BY-NC 4.0"
    assert "small letters" in told["Loud Name"]
    assert "regression" in told["scores"]
    assert "dev.jsonl" in told["broken lora"]
    assert not any("\n" in reason for reason in told.values())
    assert [module.card.task for module in Zoo(copied)] == ["moods"]
    assert any(line.startswith("broken lora:") for line in said)


def test_a_licence_can_be_let_through(tasks, tmp_path, settings, in_process):
    write_task(tasks / "closed", sentiment, license="CC BY-NC 4.0")
    result, _ = built(tasks, tmp_path / "zoo", dataclasses.replace(settings, commercial=False), only=["closed"])
    assert len(result.kept) == 1


def test_a_generation_module_is_judged_by_its_loss(tmp_path, in_process):
    def rows(number):
        return [{"input": f"text: {i} {number}", "output": "a warm and funny film"} for i in range(12)]

    write_task(tmp_path / "tasks" / "praise", rows, kind="generation")
    tiny.tiny_model("t5").save_pretrained(tmp_path / "t5")
    tiny.tokenizer_for("t5").save_pretrained(tmp_path / "t5")
    settings = BuildSettings(backbone=str(tmp_path / "t5"), methods=("lora",), tune=FAST, precision="fp32")
    result, said = built(tmp_path / "tasks", tmp_path / "zoo", settings)
    [record] = result.records
    assert record.z["untrained"] > 1.65
    assert set(record.z) == {"untrained"}
    assert record.metrics["dev"]["loss"] < record.metrics["untrained_dev"]["loss"]
    assert len(result.kept) == 1
    assert said[0].startswith("praise lora: loss module")
    [row] = json.loads((tmp_path / "zoo" / "build.json").read_text())["results"]
    assert row["test_loss"] < row["untrained_test_loss"]


def test_another_backbone_does_not_go_on_with_this_build(tasks, copied, tmp_path, settings, in_process):
    tiny.tiny_model("bert", seed=1).save_pretrained(tmp_path / "other")
    tiny.tokenizer_for("bert").save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="holds a build with another backbone"):
        built(tasks, copied, dataclasses.replace(settings, backbone=str(tmp_path / "other")))
    work._Worker.backbone = None
    with pytest.raises(ConfigError, match="another start seed"):
        built(tasks, copied, dataclasses.replace(settings, start_seed=1))


def test_a_backbone_that_cannot_be_loaded_ends_the_build_at_once(tasks, tmp_path, settings, in_process):
    with pytest.raises(BackboneError, match="no backbone folder"):
        built(tasks, tmp_path / "zoo", dataclasses.replace(settings, backbone=str(tmp_path / "nowhere")))


def test_a_killed_worker_is_explained(tasks, tmp_path, settings, monkeypatch):
    def broken():
        raise BrokenProcessPool("it was killed")

    monkeypatch.setattr(build, "_pool", lambda *args: ThreadPoolExecutor(1))
    monkeypatch.setattr(work, "check", broken)
    with pytest.raises(TransferError, match="ended suddenly") as caught:
        built(tasks, tmp_path / "zoo", settings)
    assert "--workers 1" in caught.value.hint


def test_no_such_folder_task_or_method(tasks, tmp_path, settings):
    with pytest.raises(DataError, match="no task folder"):
        built(tmp_path / "nowhere", tmp_path / "zoo", settings)
    with pytest.raises(DataError, match="no task 'mood'") as caught:
        built(tasks, tmp_path / "zoo", settings, only=["mood"])
    assert caught.value.found == "chance, moods"
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        built(tasks, tmp_path / "zoo", dataclasses.replace(settings, methods=("lorra",)))
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("wrong", [{"methods": ()}, {"most_tasks": 0}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        BuildSettings(**wrong)
