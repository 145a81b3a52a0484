"""The zoo as one process sees it: adding, finding, removing, exporting, verifying."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import pytest
import torch
from zoo_toys import FINGERPRINT, card_of, module_of, settings_of, signature_of, tensors_of

from zoo import CardError, ChecksumError, Module, PathError, TensorError, UnknownModuleError, Zoo, ZooError


@pytest.fixture
def zoo(tmp_path):
    return Zoo(tmp_path / "zoo")


@pytest.fixture
def filled(zoo):
    """Three tasks, two methods."""
    for task in ("boolq", "rte", "trec"):
        for method in ("lora", "prefix"):
            category = "topics" if task == "trec" else "questions"
            zoo.add(module_of(task, method, category=category, signature=signature_of(len(task)), start=True))
    return zoo


def test_an_empty_zoo_reads_as_empty_and_makes_no_folder(zoo):
    assert (len(zoo), list(zoo), zoo.find(task="x"), zoo.verify()) == (0, [], [], [])
    assert not zoo.path.exists()
    assert bool(zoo)


def test_what_is_added_is_found_listed_and_iterated(filled):
    assert len(filled) == 6
    assert [module.id for module in filled] == filled.ids() == sorted(filled.ids())
    assert {module.card.task for module in filled.find(method="prefix")} == {"boolq", "rte", "trec"}
    assert [m.card.method for m in filled.find(task="rte", category="questions", backbone="tiny")] == ["lora", "prefix"]
    assert filled.find(task="rte", method="adapter") == []
    assert len(filled.find(fingerprint=FINGERPRINT)) == 6
    assert filled.counts() == [("lora", "tiny", FINGERPRINT, 3), ("prefix", "tiny", FINGERPRINT, 3)]
    first = filled.ids()[0]
    assert first in filled
    assert filled.get(first) in filled
    assert "boolq-lora-00000000" not in filled
    assert "../x" not in filled
    assert filled.verify() == []


def test_adding_again_changes_nothing_and_gives_the_stored_module(zoo):
    stored = zoo.add(module_of(steps=5))
    before = os.stat(stored.folder / "card.json").st_mtime_ns
    again = zoo.add(module_of(steps=99))
    assert again.card.steps == 5
    assert os.stat(stored.folder / "card.json").st_mtime_ns == before
    assert len(zoo) == 1


def test_an_unknown_id_proposes_the_closest(filled):
    found = filled.find(task="rte", method="lora")[0].id
    with pytest.raises(UnknownModuleError, match=f"did you mean '{found}'"):
        filled.get(found[:-1] + ("0" if found[-1] != "0" else "1"))


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "..", "boolq-lora-0000000g", "x/../boolq-lora-00000000"])
def test_hostile_ids_are_refused_everywhere(filled, tmp_path, name):
    for act in (filled.get, filled.remove, lambda n: filled.export(n, tmp_path / "out")):
        with pytest.raises(PathError):
            act(name)
    with pytest.raises(PathError):
        filled.get_start(name)
    assert filled.verify() == []


def test_removing_takes_the_module_and_with_the_last_its_tasks_signature(filled):
    shared = filled.path / "signatures" / "rte-aaaaaaaa.safetensors"
    one, other = filled.find(task="rte")
    filled.remove(one.id)
    assert one.id not in filled
    assert shared.exists()
    assert filled.get(other.id).signature.centroid is not None
    filled.remove(other.id)
    assert not shared.exists()
    with pytest.raises(UnknownModuleError):
        filled.remove(other.id)
    assert filled.verify() == []


def test_a_module_that_cannot_be_read_can_be_removed(filled):
    found = filled.ids()[0]
    (filled.path / "modules" / found / "card.json").write_text("{")
    with pytest.raises(CardError, match=found):
        filled.get(found)
    filled.remove(found)
    assert filled.verify() == []


def test_the_tasks_signature_is_stored_once_and_a_different_one_beside_its_module(zoo):
    for method in ("lora", "prefix", "adapter"):
        zoo.add(module_of(method=method, signature=signature_of(0)))
    other = zoo.add(module_of(seed=5, signature=signature_of(1)))
    assert len(list((zoo.path / "signatures").iterdir())) == 1
    assert other.record.task_signature is None
    for module in zoo:
        expected = signature_of(1 if module.id == other.id else 0)
        assert torch.equal(torch.tensor(module.signature.centroid), torch.tensor(expected.centroid))
    assert zoo.verify() == []


def test_the_same_tensors_with_another_alpha_are_refused_and_never_dropped_silently(zoo):
    stored = zoo.add(module_of())
    plain = {**stored.card.settings, "ranks": {}, "parts": None}
    assert zoo.add(module_of(settings=plain)).id == stored.id
    with pytest.raises(CardError, match="with another alpha") as caught:
        zoo.add(module_of(settings={**plain, "alpha": 8}))
    assert caught.value.found == "4 there, 8 here"
    zoo.remove(stored.id)
    assert zoo.add(module_of(settings={**plain, "alpha": 8})).card.settings["alpha"] == 8


def test_the_same_tensors_for_another_backbone_are_refused(zoo):
    stored = zoo.add(module_of())
    with pytest.raises(CardError, match="with another backbone") as caught:
        zoo.add(module_of(fingerprint="f" * 64))
    assert "ffffffff" in caught.value.found
    assert f"--zoo {zoo.path}" in caught.value.hint
    assert zoo.get(stored.id).card.fingerprint == stored.card.fingerprint


def test_an_export_follows_no_link_out_of_the_zoo(filled, tmp_path):
    module = next(iter(filled))
    file = module.folder / next(name for name in module.record.files if name.startswith("adapter_model"))
    outside = tmp_path / "outside.safetensors"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(PathError, match="is a link"):
        filled.export(module.id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_is_stored_once_and_found_by_settings(zoo):
    tensors, settings = tensors_of("lora", 9), {"rank": 2, "shapes": {"a": [1, 2]}}
    name = zoo.add_start("lora", settings, FINGERPRINT, {k: v.float() for k, v in tensors.items()})
    assert zoo.add_start("lora", settings, FINGERPRINT, tensors) == name
    assert name == zoo.find_start("lora", dict(reversed(settings.items())), FINGERPRINT)
    assert name.startswith("lora-")
    assert name.endswith("-aaaaaaaa")
    assert zoo.find_start("lora", {"rank": 3}, FINGERPRINT) is None
    assert zoo.find_start("lora", settings, "b" * 64) is None
    got = zoo.get_start(name)
    assert all(got[k].dtype == torch.float32 and torch.equal(got[k], v.float()) for k, v in tensors.items())
    assert os.path.getsize(zoo.path / "starts" / f"{name}.safetensors") < 1500  # fp16 holds it exactly
    with pytest.raises(TensorError, match="another start"):
        zoo.add_start("lora", settings, FINGERPRINT, tensors_of("lora", 10))
    module = zoo.add(module_of(start=False, **{}), start=name)
    assert module.card.start == name
    assert set(module.start()) == set(tensors)


def test_a_start_that_is_nowhere_or_of_other_shapes_is_refused(zoo):
    with pytest.raises(UnknownModuleError, match="which is not in"):
        zoo.add(Module.new(card_of(start="lora-01234567-aaaaaaaa"), tensors_of("lora")))
    with pytest.raises(UnknownModuleError, match="no start named"):
        zoo.add(module_of(), start="lora-01234567-aaaaaaaa")
    with pytest.raises(TensorError, match="not trained from this start"):
        zoo.add(module_of(), start={name: t[:, :1] for name, t in tensors_of("lora", 1).items()})
    assert len(zoo) == 0
    assert list((zoo.path / ".incoming").iterdir()) == []


def test_a_module_moves_to_another_zoo_with_signature_and_start(filled, tmp_path):
    other = Zoo(tmp_path / "other")
    for module in filled:
        assert other.add(module) == module
    assert other.verify() == []
    for module in other:
        assert module.signature == filled.get(module.id).signature
        assert all(torch.equal(t, module.start()[n]) for n, t in filled.get(module.id).start().items())


def test_a_foreign_start_of_the_same_name_is_kept_beside(zoo, tmp_path):
    other = Zoo(tmp_path / "other")
    own = zoo.add(Module.new(card_of(), tensors_of("lora", 1), start=tensors_of("lora", 100)))
    foreign = other.add(Module.new(card_of(), tensors_of("lora", 2), start=tensors_of("lora", 200)))
    assert foreign.card.start == own.card.start
    moved = zoo.add(foreign)
    assert moved.card.start != own.card.start
    assert all(torch.equal(moved.start()[n], t.float()) for n, t in tensors_of("lora", 200).items())
    assert all(torch.equal(own.start()[n], t.float()) for n, t in tensors_of("lora", 100).items())
    assert zoo.verify() == []


@pytest.mark.parametrize("signature", [True, False])
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_an_exported_folder_stands_by_itself(filled, tmp_path, method, signature):
    module = filled.find(task="trec", method=method)[0]
    folder = filled.export(module.id, tmp_path / "out" / "anything", signature=signature)
    loaded = Module.load(folder)
    assert loaded.id == module.id
    assert all(torch.equal(loaded.tensors()[name], tensor) for name, tensor in module.tensors().items())
    assert all(torch.equal(loaded.start()[name], tensor) for name, tensor in module.start().items())
    if signature:
        assert loaded.signature == module.signature
        assert loaded.card == module.card
    else:
        assert loaded.signature.holds == ("weight_sketch", "block_norms")
        assert loaded.record.holds == ("weight_sketch", "block_norms")
        assert "left out" in loaded.card.provenance["signature"]
    other = Zoo(tmp_path / "other")
    assert other.add(loaded).card.start == module.card.start
    assert other.verify() == []


def test_export_writes_over_nothing(filled, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PathError, match="is there already"):
        filled.export(filled.ids()[0], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_read_only_zoo_is_never_written_to(filled):
    filled._catalog.path.unlink()
    before = sorted(str(path) for path in filled.path.rglob("*"))
    reader = Zoo(filled.path, read_only=True)
    assert len(reader) == 6
    assert reader.verify() == []
    for act in (
        lambda: reader.add(module_of("new")),
        lambda: reader.remove(reader.ids()[0]),
        lambda: reader.add_start("lora", {}, FINGERPRINT, tensors_of("lora")),
    ):
        with pytest.raises(ZooError, match="read-only"):
            act()
    assert sorted(str(path) for path in filled.path.rglob("*")) == before


def test_default_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TRANSFER_ZOO", str(tmp_path / "named"))
    assert Zoo.default().path == tmp_path / "named"
    monkeypatch.delenv("TRANSFER_ZOO")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Zoo.default().path.name == "zoo"
    if sys.platform == "linux":
        assert tmp_path in Zoo.default().path.parents


def test_the_starter_zoo_is_read_only():
    assert Zoo.starter().read_only
    assert len(Zoo.starter()) > 30


def test_a_file_is_no_zoo(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PathError, match="is a file"):
        Zoo(tmp_path / "file")


def _spoil(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _rewrite(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _poison(folder):
    """Tensors that are not finite, with a checksum that is right."""
    import hashlib

    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[next(iter(tensors))][0, 0] = torch.nan
    save_file(tensors, path)
    files = json.loads((folder / "card.json").read_text())["files"]
    _rewrite(folder, files={**files, path.name: hashlib.sha256(path.read_bytes()).hexdigest()})


def _link(path):
    target = path.with_name("elsewhere")
    path.rename(target)
    path.symlink_to(target)


HARM = {
    "a flipped bit": (lambda folder: _spoil(folder / "adapter_model.safetensors"), "adapter_model"),
    "a missing file": (lambda folder: (folder / "adapter_config.json").unlink(), "is missing"),
    "a stray file": (lambda folder: (folder / "adapter_model.bin").write_bytes(b"x"), "no part of the module"),
    "not finite": (_poison, "NaN"),
    "another rank": (lambda folder: _rewrite(folder, settings={**settings_of("lora"), "rank": 3}), "shape"),
    "another task": (lambda folder: _rewrite(folder, task="other"), "task 'other'"),
    "another id": (lambda folder: _rewrite(folder, id="boolq-lora-00000000"), "boolq-lora-00000000"),
    "a file outside": (lambda folder: _rewrite(folder, files={"../../x": "0" * 64}), "name of a file"),
    "a link": (lambda folder: _link(folder / "adapter_model.safetensors"), "link"),
    "a linked card": (lambda folder: _link(folder / "card.json"), "link"),
    "a linked folder": (_link, "link"),
    "no card": (lambda folder: (folder / "card.json").unlink(), "card.json"),
    "no JSON": (lambda folder: (folder / "card.json").write_text("{"), "JSON"),
    "no UTF-8": (lambda folder: (folder / "card.json").write_bytes(b"\xff\xfe"), "UTF-8"),
    "holds otherwise": (lambda folder: _rewrite(folder, holds=["centroid"]), "says otherwise"),
    "a renamed folder": (lambda folder: folder.rename(folder.with_name("boolq-lora-00000000")), "boolq-lora"),
    "a foreign folder": (lambda folder: (folder.parent / "foreign").mkdir(), "foreign"),
}


@pytest.mark.parametrize("kind", HARM)
def test_verify_finds_harm_and_the_others_stay_readable(filled, kind):
    do, said = HARM[kind]
    module = filled.find(task="boolq", method="lora")[0]
    others = [other for other in filled.ids() if other != module.id]
    do(module.folder)
    problems = Zoo(filled.path).verify()
    assert len(problems) >= 1
    assert any(said in str(problem) for problem in problems), problems
    assert all("modules/" in problem.where for problem in problems)
    assert all(other in filled and filled.get(other).tensors() for other in others)
    assert set(others) <= set(filled.ids())


def test_verify_names_a_spoilt_start_and_a_spoilt_signature(filled):
    for name in ("starts", "signatures"):
        _spoil(sorted((filled.path / name).iterdir())[0])
    places = {problem.where.split("/")[0] for problem in filled.verify()}
    assert places == {"starts", "modules"}


def test_not_finite_tensors_with_a_right_checksum_are_refused_on_use(filled):
    module = filled.find(task="boolq", method="lora")[0]
    _poison(module.folder)
    with pytest.raises(TensorError, match="NaN"):
        dict(Zoo(filled.path).get(module.id).tensors())


def test_a_link_among_the_modules_is_not_listed(filled, tmp_path):
    found = filled.ids()[0]
    shutil.move(filled.path / "modules" / found, tmp_path / "outside")
    (filled.path / "modules" / found).symlink_to(tmp_path / "outside")
    assert found not in filled.ids()
    with pytest.raises(PathError, match="link"):
        filled.get(found)


def test_what_a_killed_writer_left_is_swept_once_it_is_old(zoo):
    zoo.add(module_of())
    for name, age in (("old", 2 * 3600), ("young", 60)):
        folder = zoo.path / ".incoming" / name
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        os.utime(folder, (time.time() - age, time.time() - age))
    zoo.add(module_of("trec"))
    assert [path.name for path in (zoo.path / ".incoming").iterdir()] == ["young"]


def test_an_id_that_is_not_the_hash_of_the_tensors_is_refused(zoo):
    module = Module("boolq-lora-00000000", card=card_of(), tensors=tensors_of("lora"))
    with pytest.raises(PathError, match="after its tensors"):
        zoo.add(module)
    assert len(zoo) == 0


def test_adding_a_spoilt_module_of_another_zoo_is_refused(filled, zoo, tmp_path):
    other = Zoo(tmp_path / "other")
    module = filled.find(task="boolq", method="lora")[0]
    _spoil(module.folder / "adapter_model.safetensors")
    with pytest.raises(ChecksumError):
        other.add(Module.load(module.folder))
    assert len(other) == 0


def test_errors_are_zoo_errors_with_three_parts(filled):
    with pytest.raises(ZooError) as caught:
        filled.get("boolq-lora-00000000")
    assert caught.value.found == "6 modules"
    assert str(caught.value).count("\n") == 2


def test_everything_is_on_the_disk_before_it_is_renamed_to_its_place(zoo, synced, monkeypatch):
    at_rename = []
    real = os.rename

    def rename(source, target):
        at_rename.append((target, list(synced)))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    stored = zoo.add(module_of(signature=signature_of(), start=True))
    folder, before = at_rename[-1]
    assert folder == stored.folder
    files = [*stored.folder.iterdir(), *(zoo.path / "starts").iterdir(), *(zoo.path / "signatures").iterdir()]
    assert len(files) == 6
    assert {path.stat().st_ino for path in [*files, stored.folder]} <= set(before)
    assert (zoo.path / "modules").stat().st_ino in synced[len(before) :]
