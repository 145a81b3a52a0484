"""Folders written whole or not at all; a saved module takes the place of a saved module and of nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from zoo_toys import module_of, signature_of

from zoo import Module, PathError
from zoo.folders import check_replaceable, whole_folder
from zoo.writing import check_can_save, save_module


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def saved(tmp_path):
    """A module in a folder by itself, with signature and start."""
    return save_module(module_of(seed=1, signature=signature_of(), start=True), tmp_path / "tuned")


def test_a_saved_module_is_replaced_by_another_of_other_files(saved, tmp_path):
    other = module_of(method="adapter", seed=2)
    save_module(other, saved, replace=True)
    assert Module.load(saved).id == other.id
    assert all(torch.equal(Module.load(saved).tensors()[name], tensor) for name, tensor in other.tensors().items())
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_without_replace_nothing_is_replaced(saved):
    before = listing(saved)
    with pytest.raises(PathError, match="is there already"):
        save_module(module_of(seed=2), saved)
    assert listing(saved) == before


def _notes(folder):
    (folder / "notes.txt").write_text("mine")


def _folder_of_a_known_name(folder):
    (folder / "signature.safetensors").unlink()
    (folder / "signature.safetensors").mkdir()
    (folder / "signature.safetensors" / "notes.txt").write_text("mine")


def _a_card_of_something_else(folder):
    (folder / "card.json").write_text('{"name": "a playing card"}')


def _no_card(folder):
    (folder / "card.json").unlink()


@pytest.mark.parametrize("change", [_notes, _folder_of_a_known_name, _a_card_of_something_else, _no_card])
def test_what_is_no_saved_module_alone_is_not_replaced(saved, tmp_path, change):
    change(saved)
    before = listing(tmp_path)
    for refuses in (check_can_save, lambda folder, replace: save_module(module_of(seed=2), folder, replace)):
        with pytest.raises(PathError, match="holds something else"):
            refuses(saved, True)
    assert listing(tmp_path) == before


def test_files_and_links_are_not_replaced(saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    (tmp_path / "file").write_text("mine")
    for name in ("link", "file"):
        with pytest.raises(PathError, match="holds something else"):
            save_module(module_of(seed=2), tmp_path / name, replace=True)


@pytest.mark.parametrize("holds", [(), ("card.json",)])
@pytest.mark.parametrize("name", [".", "", "../here", "whole path"])
def test_the_current_folder_is_refused_before_the_work(tmp_path, monkeypatch, name, holds):
    here = tmp_path / "here"
    here.mkdir()
    for file in holds:
        (here / file).touch()
    monkeypatch.chdir(here)
    folder = here if name == "whole path" else Path(name)
    for refuses in (check_replaceable, lambda *args: whole_folder(*args).__enter__()):
        with pytest.raises(PathError, match="is the current folder"):
            refuses(folder, ("card.json",), "card.json")
    assert listing(tmp_path) == sorted(["here", *(f"here/{file}" for file in holds)])


def test_a_folder_in_the_current_one_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (Path("new"), Path("not/there/..")):
        with whole_folder(folder, (), "card.json") as part:
            (part / "card.json").touch()
    assert listing(tmp_path) == ["new", "new/card.json", "not", "not/card.json"]


def test_what_comes_there_meanwhile_stays(saved, tmp_path):
    with pytest.raises(PathError, match="holds something else"), whole_folder(saved, os.listdir(saved), "card.json"):
        _notes(saved)
    assert (saved / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_the_old_folder_stands_until_the_new_one_is_whole_and_comes_back_if_that_fails(saved, tmp_path, monkeypatch):
    """The old one is renamed aside, never deleted before the new one is in its place."""
    before, rename = Module.load(saved).id, os.rename

    def fails(source, target):
        if "-new-" in str(source):
            assert not saved.exists()
            assert [path.name for path in tmp_path.glob(".tuned-old-*/card.json")] == ["card.json"]
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="no space"):
        save_module(module_of(seed=2), saved, replace=True)
    assert Module.load(saved).id == before
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_all_is_on_the_disk_before_the_rename(saved, synced, monkeypatch):
    rename = os.rename
    waiting = []

    def watched(source, target):
        if "-new-" in str(source):
            waiting.extend(path for path in (source, *source.iterdir()) if path.stat().st_ino not in synced)
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    save_module(module_of(seed=2, signature=signature_of(), start=True), saved, replace=True)
    assert waiting == []
    assert saved.parent.stat().st_ino in synced
