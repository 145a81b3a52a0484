"""Help, usage errors, and the commands that need no backbone."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

COMMANDS = [
    (),
    ("init",),
    ("score",),
    ("finetune",),
    ("evaluate",),
    ("predict",),
    ("tasks",),
    ("tasks", "ls"),
    ("tasks", "show"),
    ("zoo",),
    *(("zoo", name) for name in ("ls", "show", "add", "build", "verify", "rm", "export")),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_to_copy(words, transfer):
    ran = transfer(*words, "--help")
    assert ran.code == 0
    assert "Usage: transfer" in ran.out
    if words not in ((), ("tasks",), ("zoo",)):
        assert f"transfer {' '.join(words)}" in ran.out.split("Options:")[1]
    assert max(len(line) for line in ran.out.splitlines()) <= 100
    copied = [line for line in ran.out.splitlines() if line.startswith("    transfer ")]
    assert max((len(line) for line in copied), default=0) <= 80


def test_help_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['transfer', 'init', '--help']\n"
        "from transfer.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'faiss', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert time.perf_counter() - begun < 20  # the import check is the test; this only catches a hang


def test_a_wrong_option_is_a_usage_error(transfer):
    assert transfer("init", "--targt", "boolq").code == 2
    assert transfer("init").code == 2


def test_an_unknown_task_names_the_closest(transfer):
    ran = transfer("tasks", "show", "bolq")
    assert ran.code == 1
    assert "boolq" in ran.err
    assert "Traceback" not in ran.err


def test_tasks_are_listed_with_their_sources(transfer):
    rows = json.loads(transfer("tasks", "ls", "--json").out)
    named = {row["name"]: row for row in rows}
    assert len(rows) >= 40
    assert "sample" in named["boolq"]["where"]
    table = transfer("tasks", "ls").out
    assert max(len(line) for line in table.splitlines()) <= 80
    assert set(named) <= {line.split()[0] for line in table.splitlines() if line.strip()}, "names are whole"


def test_a_category_that_no_task_has_is_told_with_those_there_are(transfer):
    ran = transfer("tasks", "ls", "--category", "nosuch")
    assert ran.code == 0
    assert "no task of the category 'nosuch'; there are acceptability," in ran.out
    assert json.loads(transfer("tasks", "ls", "--category", "nosuch", "--json").out) == []


def test_a_sample_is_shown_as_training_sees_it(transfer):
    ran = transfer("tasks", "show", "sentiment", "--source", "sample", "--rows", "2")
    assert ran.code == 0
    assert "sample shipped with transfer" in ran.out
    assert ran.out.count("text: ") == 2


def test_the_starter_zoo_is_listed_shown_and_exported(transfer, tmp_path):
    listed = json.loads(transfer("zoo", "ls", "--json").out)
    assert len(listed) >= 30
    first = listed[0]["id"]
    shown = transfer("zoo", "show", first)
    assert listed[0]["fingerprint"] in shown.out
    assert transfer("zoo", "export", first, tmp_path / "out").code == 0
    assert (tmp_path / "out" / "card.json").is_file()
    assert transfer("zoo", "export", first, tmp_path / "out").code == 1
    table = transfer("zoo", "ls").out
    assert max(len(line) for line in table.splitlines()) <= 80


def test_an_exported_module_can_be_added_and_removed(transfer, tmp_path):
    first = json.loads(transfer("zoo", "ls", "--json").out)[0]["id"]
    transfer("zoo", "export", first, tmp_path / "out")
    own = ("--zoo", tmp_path / "mine")
    added = transfer("zoo", "add", tmp_path / "out", *own, "--json")
    assert json.loads(added.out)["added"] == [first]
    assert transfer("zoo", "verify", *own).code == 0
    assert transfer("zoo", "rm", first, *own).code == 0
    assert transfer("zoo", "rm", first, *own).code == 1


def test_verify_finds_a_changed_file(transfer, tmp_path):
    first = json.loads(transfer("zoo", "ls", "--json").out)[0]["id"]
    transfer("zoo", "export", first, tmp_path / "out")
    transfer("zoo", "add", tmp_path / "out", "--zoo", tmp_path / "mine")
    tensors = next((tmp_path / "mine" / "modules" / first).glob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    ran = transfer("zoo", "verify", "--zoo", tmp_path / "mine")
    assert ran.code == 1
    assert first in ran.out
