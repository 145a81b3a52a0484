"""`transfer zoo add`, `ls` and `verify` where something is wrong with one of many."""

from __future__ import annotations

import json

import pytest
from zoo_toys import module_of

from transfer.cli.options import zoos
from zoo import Zoo
from zoo.writing import save_module


@pytest.fixture
def folders(tmp_path):
    """Three modules, each in a folder by itself."""
    return [save_module(module_of(name, seed=n), tmp_path / "out" / name) for n, name in enumerate(("a", "b", "c"))]


@pytest.fixture
def own(tmp_path, folders):
    """A zoo with the three, and the option that names it."""
    zoo = Zoo(tmp_path / "own")
    for number, name in enumerate(("a", "b", "c")):
        zoo.add(module_of(name, seed=number))
    return zoo, ("--zoo", zoo.path)


def _no_tensors(folder):
    (folder / "adapter_model.safetensors").unlink()


def _changed_tensors(folder):
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _other_settings(folder):
    card = json.loads((folder / "card.json").read_text())
    card["settings"]["places"] = card["settings"]["places"][:1]
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("spoil", [_no_tensors, _changed_tensors, _other_settings])
def test_a_bad_third_folder_leaves_nothing_half_done(transfer, folders, tmp_path, spoil):
    spoil(folders[2])
    ran = transfer("zoo", "add", *folders, "--zoo", tmp_path / "mine")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert len(Zoo(tmp_path / "mine")) == 0
    assert transfer("zoo", "add", *folders[:2], "--zoo", tmp_path / "mine").code == 0
    assert len(Zoo(tmp_path / "mine")) == 2


def test_folders_that_cannot_be_read_are_told(transfer, own):
    zoo, option = own
    assert "cannot be read" not in transfer("zoo", "ls", *option).out
    for module_id in zoo.ids()[:2]:
        (zoo.path / "modules" / module_id / "card.json").write_text("{")
    zoo.rebuild()
    listed = transfer("zoo", "ls", *option).out
    assert f"2 folders cannot be read: transfer zoo verify --zoo {zoo.path}" in listed.splitlines()
    ran = transfer("zoo", "verify", *option)
    assert ran.code == 1
    checked = 3 + len(Zoo.starter())
    assert f"{checked} modules checked, 2 of them cannot be read; 2 problems" in ran.out


def test_the_starter_zoo_given_as_ones_own_is_read_once(transfer):
    listed = json.loads(transfer("zoo", "ls", "--json", "--zoo", str(Zoo.starter().path)).out)
    assert len(zoos(Zoo.starter().path)) == 1
    assert len(listed) == len(Zoo.starter())


@pytest.mark.parametrize("option", ["--task", "--method", "--category", "--backbone"])
def test_what_no_module_has_is_told_with_what_there_is(transfer, option):
    ran = transfer("zoo", "ls", option, "nosuch")
    assert ran.code == 0
    assert f"no module of the {option[2:]} 'nosuch'; there are " in ran.out
    assert json.loads(transfer("zoo", "ls", option, "nosuch", "--json").out) == []


def test_what_no_module_has_at_once_is_told(transfer):
    assert "no module has all of this at once" in transfer("zoo", "ls", "--task", "sst2", "--category", "nli").out


def test_a_zoo_that_is_not_there_is_not_verified(transfer, tmp_path):
    ran = transfer("zoo", "verify", "--zoo", tmp_path / "nowhere")
    assert ran.code == 1
    assert f"there is no zoo {tmp_path / 'nowhere'}" in ran.err


def test_quiet_commands_print_ids_and_problems_alone(transfer, folders, tmp_path):
    option = ("--zoo", tmp_path / "mine")
    added = transfer("zoo", "add", *folders, *option, "--quiet").out.split()
    assert added == transfer("zoo", "ls", *option, "--quiet", "--backbone", "tiny").out.split() != []
    assert transfer("zoo", "show", added[0], *option, "--quiet").out == f"{added[0]}\n"
    assert transfer("zoo", "verify", *option, "--quiet").out == ""
    _no_tensors(tmp_path / "mine" / "modules" / added[0])
    ran = transfer("zoo", "verify", *option, "--quiet")
    assert (ran.code, ran.out.count("\n"), added[0] in ran.out) == (1, 1, True)


def test_what_was_removed_or_exported_is_told_as_json(transfer, own, tmp_path):
    zoo, option = own
    first, second, _ = zoo.ids()
    exported = json.loads(transfer("zoo", "export", first, tmp_path / "alone", *option, "--json").out)
    assert exported == {"module": first, "folder": str(tmp_path / "alone")}
    assert json.loads(transfer("zoo", "rm", first, second, *option, "--json").out) == {"removed": [first, second]}


def test_all_is_well(transfer, own):
    ran = transfer("zoo", "verify", *own[1])
    assert (ran.code, ran.out) == (0, f"{3 + len(Zoo.starter())} modules checked; 0 problems\n")


def test_what_a_module_that_is_there_says_otherwise_is_told(transfer, tmp_path):
    option = ("--zoo", tmp_path / "mine")
    for name, licence in (("one", "MIT"), ("two", "CC BY-NC")):
        save_module(module_of("a", license=licence), tmp_path / name)
    assert transfer("zoo", "add", tmp_path / "one", *option).code == 0
    said = " ".join(transfer("zoo", "add", tmp_path / "two", *option).out.split())
    assert "was there already" in said
    assert "its license stays 'MIT', not 'CC BY-NC'" in said
    assert "transfer zoo rm a-lora-" in said


def test_rm_of_several_removes_none_where_one_is_not_there(transfer, own):
    zoo, option = own
    ran = transfer("zoo", "rm", zoo.ids()[0], "nothing-lora-00000000", *option, "--json")
    assert (ran.code, ran.out) == (1, "")
    assert len(Zoo(zoo.path)) == 3
    (zoo.path / "modules" / zoo.ids()[0] / "card.json").write_text("{")  # one that cannot be read may go
    assert transfer("zoo", "rm", zoo.ids()[0], *option).code == 0
    assert len(Zoo(zoo.path)) == 2


def test_texts_of_cards_do_not_steer_the_terminal(transfer, tmp_path):
    Zoo(tmp_path / "mine").add(module_of("a", category="sent\x1b]0;owned\x07\x1b[2J"))
    ran = transfer("zoo", "ls", "--zoo", tmp_path / "mine")
    assert "\x1b" not in ran.out
    assert "sent]0;owned[2J" in ran.out


def test_options_of_a_merge_are_refused_without_one(transfer, own, tmp_path):
    zoo, option = own
    for words, named in ((("--kind", "causal"), "--kind"), (("--force",), "--force")):
        ran = transfer("zoo", "export", zoo.ids()[0], tmp_path / "out", *option, *words)
        assert ran.code == 1
        assert f"{named} goes with --merged" in ran.err


def test_settings_that_no_method_takes_are_found(transfer, tmp_path):
    zoo = Zoo(tmp_path / "mine")
    module = zoo.add(module_of("a"))
    card = json.loads((module.folder / "card.json").read_text())
    card["settings"]["alpha"] = None
    (module.folder / "card.json").write_text(json.dumps(card))
    ran = transfer("zoo", "verify", "--zoo", zoo.path)
    assert ran.code == 1
    assert f"modules/{module.id}: the settings of module '{module.id}' cannot be used" in " ".join(ran.out.split())


def test_an_id_that_is_named_twice_is_removed_once(transfer, own):
    zoo, where = own
    first = zoo.ids()[0]
    ran = transfer("zoo", "rm", first, first, *where, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"removed": [first]}
    assert first not in zoo.ids()


def test_a_zoo_that_is_not_there_is_said(transfer, tmp_path):
    ran = transfer("zoo", "ls", "--zoo", tmp_path / "typo", "--json")
    assert ran.code == 0
    assert ran.err == f"note: there is no zoo {tmp_path / 'typo'}; only the starter zoo is searched\n"
    assert len(json.loads(ran.out)) == len(Zoo.starter())
    nothing = transfer("zoo", "ls", "--zoo", tmp_path / "typo", "--task", "none")
    assert nothing.err.count("note:") == 1


def test_a_build_of_nothing_is_an_error_with_the_reason(transfer, tmp_path):
    task = tmp_path / "tasks" / "films"
    task.mkdir(parents=True)
    (task / "task.json").write_text(json.dumps({"name": "films", "license": "CC BY-NC 4.0"}))
    (task / "train.jsonl").write_text(json.dumps({"input": "a", "choices": ["b", "c"], "label": 0}) + "\n")
    ran = transfer("zoo", "build", "--tasks", tmp_path / "tasks", "--out", tmp_path / "zoo")
    assert ran.code == 1
    assert "films: its licence forbids commercial use" in ran.err
    assert (tmp_path / "zoo" / "build.json").is_file()
