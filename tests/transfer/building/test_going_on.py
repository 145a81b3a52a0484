"""Going on with a build: other settings, other data, errors while storing, and what several methods share."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest
import torch
from small_tasks import by_chance, sentiment, write_task
from test_judging import record

from transfer.backbones import load_backbone
from transfer.building import BuildSettings, build, build_zoo, source, work
from transfer.building.choosing import choose
from transfer.building.records import Built, Records
from transfer.building.source import shared_start
from transfer.building.storing import store_source
from transfer.deltas import METHODS
from transfer.errors import ConfigError, DataError, TransferError
from transfer.tasks import load_task
from zoo import Zoo


def built(tasks, out, settings, **more):
    said = []
    return build_zoo(tasks, out, settings, say=said.append, **more), said


@pytest.fixture
def trained(monkeypatch):
    """Names of the tasks that are trained from now on."""
    found, train = [], work.train

    def watched(job):
        found.append(job.task)
        return train(job)

    monkeypatch.setattr(work, "train", watched)
    return found


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("steps", 24, "steps 12, now 24"), ("seed", 1, "seed 0, now 1"), ("patience", 2, "patience None, now 2")],
)
def test_a_build_with_other_settings_is_not_gone_on_with(tasks, copied, settings, in_process, name, value, said):
    other = dataclasses.replace(settings, tune=dataclasses.replace(settings.tune, **{name: value}))
    with pytest.raises(ConfigError, match="holds a build with other settings") as caught:
        built(tasks, copied, other)
    assert (caught.value.found, caught.value.hint) == (said, "another --out")


def test_precision_is_a_setting(tasks, copied, settings, in_process):
    with pytest.raises(ConfigError, match="other settings") as caught:
        built(tasks, copied, dataclasses.replace(settings, precision="bf16"))
    assert caught.value.found == "precision fp32, now bf16"


def test_a_folder_that_remembers_no_settings_was_built_with_the_defaults(tmp_path):
    records = Records(tmp_path)
    about, defaults = {"backbone": "a", "start_seed": 0}, {"steps": 160, "seed": 0}
    records.folder.mkdir()
    note = records.folder / "shared.json"
    note.write_text(json.dumps(about))
    records.check_same_build(about, {"steps": 160, "seed": 0, "precision": "bf16"}, defaults)
    assert json.loads(note.read_text()) == about
    with pytest.raises(ConfigError, match="other settings") as caught:
        records.check_same_build(about, {"steps": 400, "seed": 0, "precision": "bf16"}, defaults)
    assert caught.value.found == "steps 160, now 400"


# Data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "dev"])
def test_changed_data_is_trained_again(tasks, copied, settings, in_process, trained, split):
    [old] = Zoo(copied).ids()
    with (tasks / "moods" / f"{split}.jsonl").open("a") as file:
        file.write(json.dumps({"input": "text: a warm film", "choices": ["positive", "negative"], "label": 1}) + "\n")
    result, said = built(tasks, copied, settings)
    assert trained == ["moods"]
    assert "moods lora: the data has changed since it was trained; it is trained again" in said
    new = Zoo(copied).get(result.kept[0])
    assert new.card.data["sizes"][split] == 33
    told = f"of data that has changed since: transfer zoo rm {old} --zoo {copied}"
    assert (new.id == old, said[-1] == told) == ((False, True) if split == "train" else (True, False))
    trained.clear()
    assert built(tasks, copied, settings)[0].kept == result.kept
    assert trained == []


def test_data_that_cannot_be_read_any_more_is_left_out(tasks, copied, settings, in_process, trained):
    (tasks / "moods" / "dev.jsonl").write_text("{not json\n")
    result, said = built(tasks, copied, settings)
    assert "dev.jsonl" in result.left_out["moods"]
    assert any(line.startswith("moods:") for line in said)
    assert trained == []
    assert json.loads((copied / "build.json").read_text())["empty_categories"] == ["noise", "sentiment"]


# Storing -------------------------------------------------------------------------------------------------------------


def test_an_error_while_storing_ends_neither_the_build_nor_its_report(
    tasks, tmp_path, settings, in_process, monkeypatch
):
    store = work.store

    def fails(job):
        if job.task == "chance":
            raise OSError("no space left on device")
        return store(job)

    monkeypatch.setattr(work, "store", fails)
    out = tmp_path / "zoo"
    result, said = built(tasks, out, dataclasses.replace(settings, criterion=-1e12))
    assert [module.card.task for module in Zoo(out)] == ["moods"]
    assert result.left_out == {"chance lora": "OSError: no space left on device"}
    assert any(line.startswith("chance lora could not be stored") for line in said)
    report = json.loads((out / "build.json").read_text())
    assert report["left_out"] == result.left_out
    assert report["kept"] == result.kept
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
        (KeyError("label"), "KeyError: 'label'"),
        (DataError("no rows", hint="write some"), "no rows; try:   write some"),
    ],
)
def test_whatever_error_one_task_trains_into_the_others_are_built(
    tasks, tmp_path, settings, in_process, monkeypatch, error, said
):
    train = work.train

    def fails(job):
        if job.task == "chance":
            raise error
        return train(job)

    monkeypatch.setattr(work, "train", fails)
    out = tmp_path / "zoo"
    result, lines = built(tasks, out, settings)
    assert [module.card.task for module in Zoo(out)] == ["moods"]
    assert result.left_out == {"chance lora": said}
    assert f"chance lora: {said}" in lines
    assert json.loads((out / "build.json").read_text())["left_out"] == result.left_out


def test_a_worker_that_is_killed_while_training_ends_the_build(tasks, tmp_path, settings, in_process, monkeypatch):
    def killed(job):
        raise BrokenProcessPool("it was killed")

    monkeypatch.setattr(work, "train", killed)
    with pytest.raises(TransferError, match="ended suddenly"):
        built(tasks, tmp_path / "zoo", settings)


def test_data_whose_reading_breaks_is_left_out(tasks, copied, settings, in_process, monkeypatch):
    def fails(task):
        raise OSError("stale file handle")

    monkeypatch.setattr(work, "data_fingerprint", fails)
    result, _ = built(tasks, copied, settings)
    assert result.left_out == dict.fromkeys(("moods", "chance"), "OSError: stale file handle")


def test_categories_of_refused_tasks_are_named(tasks, copied, settings, in_process):
    write_task(tasks / "closed", sentiment, category="paraphrase", license="CC BY-NC 4.0")
    write_task(tasks / "broken", sentiment, category="topics")
    (tasks / "broken" / "dev.jsonl").write_text("{not json\n")
    write_task(tasks / "Loud Name", by_chance)
    built(tasks, copied, settings)
    report = json.loads((copied / "build.json").read_text())
    assert report["empty_categories"] == ["noise", "other", "paraphrase", "topics"]


# Choosing ------------------------------------------------------------------------------------------------------------


def results(**clearness):
    """Records of tasks a, b, c by lora and adapter: `a_lora=3.0` and so on."""
    found = []
    for name, z in clearness.items():
        task, _, method = name.partition("_")
        found.append(record(task=task, method=method, z={"untrained": z, "majority": z}))
    return Built(records=found)


def named(jobs):
    return [f"{job.task}_{job.method}" for job in jobs]


def test_tasks_are_counted_over_all_methods_by_their_clearest_module(settings):
    rule = dataclasses.replace(settings, methods=("lora", "adapter"), most_tasks=2)
    found = results(a_lora=3.0, b_lora=4.0, c_lora=2.0, a_adapter=2.0, b_adapter=1.0, c_adapter=9.0)
    assert named(choose(found, rule)) == ["b_lora", "c_lora", "c_adapter"]
    assert set(found.left_out) == {"a lora", "a adapter", "b adapter"}
    assert found.left_out["a adapter"] == "2 other tasks are kept before it"
    assert found.left_out["b adapter"].startswith("not clearly better")


def test_tasks_of_the_zoo_count_and_come_first(settings):
    rule = dataclasses.replace(settings, methods=("lora", "adapter"), most_tasks=2)
    found = results(a_adapter=3.0, b_adapter=4.0, c_adapter=2.0)
    assert named(choose(found, rule, held={"c"})) == ["b_adapter", "c_adapter"]


def test_without_a_bound_all_that_pass_are_kept(settings):
    rule = dataclasses.replace(settings, methods=("lora", "adapter"))
    assert len(choose(results(a_lora=3.0, b_lora=4.0, a_adapter=2.0, b_adapter=1.0), rule)) == 3


# Starts and workers --------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(copied, settings, monkeypatch):
    """A starter zoo for the tiny backbone, with another start than is drawn here; its tensors."""
    backbone = load_backbone(settings.backbone, precision="fp32", max_length=64)
    lora = METHODS.get("lora")()
    other = lora.draw(backbone.model, 7)
    starter = Zoo(copied.parent / "starter")
    starter.add_start("lora", lora.start_settings(backbone.model), backbone.fingerprint, other)
    monkeypatch.setattr(source.Zoo, "starter", classmethod(lambda cls: cls(starter.path, read_only=True)))
    return SimpleNamespace(backbone=backbone, lora=lora, start=other)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_new_zoo_shares_the_start_of_the_starter_zoo(shipped, tmp_path, settings):
    found = shared_start(shipped.backbone, shipped.lora, settings, Records(tmp_path / "mine"))
    assert equal(found, shipped.start)


def test_a_zoo_with_a_start_keeps_it(shipped, copied, settings):
    drawn = shipped.lora.draw(shipped.backbone.model, 0)
    assert equal(shared_start(shipped.backbone, shipped.lora, settings, Records(copied)), drawn)


@pytest.fixture
def met(tmp_path, settings):
    """A module trained, and another start of that name put into the zoo before it is stored there."""
    backbone = load_backbone(settings.backbone, precision="fp32", max_length=64)
    lora, records, zoo = METHODS.get("lora")(), Records(tmp_path / "zoo"), Zoo(tmp_path / "zoo")
    write_task(tmp_path / "moods", sentiment)
    task = load_task(str(tmp_path / "moods"), source="path")
    source.train_source(backbone, task, "lora", settings, records)
    other = lora.draw(backbone.model, 5)
    named = zoo.add_start("lora", lora.start_settings(backbone.model), backbone.fingerprint, other)
    return SimpleNamespace(
        backbone=backbone, lora=lora, task=task, records=records, zoo=zoo, name=named, parts=(settings, records)
    )


def test_a_module_is_stored_with_the_start_it_was_trained_from_whatever_came_into_the_zoo(met):
    drawn = met.lora.draw(met.backbone.model, 0)
    assert equal(shared_start(met.backbone, met.lora, *met.parts), drawn)
    stored = store_source(met.backbone, met.task, "lora", *met.parts)
    assert equal(dict(stored.start()), drawn)
    assert stored.card.start.startswith(f"{met.name}-")
    assert equal(dict(met.zoo.get_start(met.name)), met.lora.draw(met.backbone.model, 5))
    assert met.zoo.verify() == []


def test_a_record_of_another_start_is_not_stored_with_this_one(met):
    (met.records.folder / "+start-lora.safetensors").unlink()
    with pytest.raises(DataError, match="trained from another start") as caught:
        store_source(met.backbone, met.task, "lora", *met.parts)
    assert "moods+lora.json" in caught.value.hint
    assert met.zoo.ids() == []


def test_a_record_that_does_not_say_its_start_can_be_stored(met):
    path = met.records.folder / "moods+lora.json"
    fields = json.loads(path.read_text())
    assert len(fields.pop("start")) == 64
    path.write_text(json.dumps(fields))
    assert equal(
        dict(store_source(met.backbone, met.task, "lora", *met.parts).start()), met.lora.draw(met.backbone.model, 0)
    )


def test_another_seed_asks_for_another_start(shipped, tmp_path, settings):
    seeded = dataclasses.replace(settings, start_seed=3)
    found = shared_start(shipped.backbone, shipped.lora, seeded, Records(tmp_path / "mine"))
    assert equal(found, shipped.lora.draw(shipped.backbone.model, 3))


@pytest.mark.parametrize(("gpu", "cores", "workers"), [(True, 16, 1), (False, 16, 4), (False, 2, 2), (False, None, 1)])
def test_workers_by_default(monkeypatch, gpu, cores, workers):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert build.default_workers() == workers


# The report ----------------------------------------------------------------------------------------------------------


def test_a_build_of_some_tasks_keeps_what_the_report_says_of_the_others(tasks, copied, settings, in_process):
    before = json.loads((copied / "build.json").read_text())
    built(tasks, copied, settings, only=["chance"])
    after = json.loads((copied / "build.json").read_text())
    assert after["kept"] == before["kept"]
    assert after["left_out"] == before["left_out"]
    assert after["empty_categories"] == before["empty_categories"]
    order = lambda rows: sorted(rows, key=lambda row: (row["task"], row["method"]))  # noqa: E731
    assert order(after["results"]) == order(before["results"])


def test_without_a_task_to_train_on_no_backbone_is_loaded(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(build, "ProcessPoolExecutor", lambda *a, **k: pytest.fail("workers were begun"))
    write_task(tmp_path / "tasks" / "Bad Name", sentiment)
    result, _ = built(tmp_path / "tasks", tmp_path / "out", settings)
    assert result.records == []
    assert list(json.loads((tmp_path / "out" / "build.json").read_text())["left_out"]) == ["Bad Name"]


def test_a_method_that_is_named_twice_is_built_once():
    assert BuildSettings(methods=("lora", "adapter", "lora")).methods == ("lora", "adapter")
