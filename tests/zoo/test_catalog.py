"""The catalogue: quick, always right, and nothing is lost with it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from functools import partial

import pytest
from zoo_toys import module_of

from zoo import Zoo
from zoo import catalog as catalog_file
from zoo.catalog import Catalog
from zoo.record import Record


@pytest.fixture
def zoo(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    for task in ("boolq", "rte"):
        zoo.add(module_of(task))
    return zoo


@pytest.fixture
def cards_read(monkeypatch):
    """Names of the folders whose card was read."""
    found = []
    real = Record.from_folder.__func__

    def reading(cls, folder, module_id=None):
        found.append(folder.name)
        return real(cls, folder, module_id)

    monkeypatch.setattr(Record, "from_folder", classmethod(reading))
    return found


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + b"x" * 5000])
def test_a_broken_catalogue_is_built_again(zoo, content):
    path = zoo.path / "catalog.sqlite"
    path.write_bytes(content)
    assert len(zoo) == 2
    assert sqlite3.connect(path).execute("SELECT COUNT(*) FROM modules").fetchone() == (2,)


def test_a_deleted_catalogue_and_one_of_another_version_are_built_again(zoo):
    (zoo.path / "catalog.sqlite").unlink()
    assert len(zoo) == 2
    connection = sqlite3.connect(zoo.path / "catalog.sqlite")
    connection.execute("DROP TABLE modules")
    connection.execute("CREATE TABLE modules (other)")
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()
    assert len(zoo) == 2


def test_a_catalogue_that_another_process_made_meanwhile_is_kept(zoo, cards_read, monkeypatch):
    met = []

    class Late(sqlite3.Connection):
        """Has the lock only after another process has made and filled the catalogue."""

        def execute(self, query, *values):
            if query == "BEGIN IMMEDIATE" and not met:
                met.append(query)
                assert len(Zoo(zoo.path)) == 2
            return super().execute(query, *values)

    (zoo.path / "catalog.sqlite").unlink()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Late))
    assert len(zoo) == 2
    assert met
    assert len(cards_read) == 2


def test_a_catalogue_that_cannot_be_kept_is_done_without(zoo):
    path = zoo.path / "catalog.sqlite"
    path.unlink()
    path.mkdir()  # neither a database nor to be deleted as a file
    assert len(zoo) == 2
    assert len(Catalog(zoo.path / "modules", None).entries(task="rte")) == 1


def test_what_is_there_stays_listed_while_another_process_has_all_read_again(zoo, monkeypatch):
    """Between clearing and reading, whoever asks sees all that there was, and all cards are read again."""
    catalogue = Catalog(zoo.path / "modules", zoo.path / "catalog.sqlite")
    assert len(catalogue.ids()) == 2
    catalogue.clear()
    connection = sqlite3.connect(zoo.path / "catalog.sqlite")
    assert connection.execute("SELECT count(*) FROM modules").fetchone() == (2,)
    connection.close()
    stamp = os.stat(zoo.path / "modules").st_mtime_ns - 10 * 10**9
    os.utime(zoo.path / "modules", ns=(stamp, stamp))  # long settled
    assert len(catalogue.ids()) == 2
    assert len(Catalog(zoo.path / "modules", zoo.path / "catalog.sqlite").ids()) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("provenance", {"by": "\ud800"}),
        ("data", {"\ud800": 1}),
        ("metrics", {"dev": {"accuracy": 10**400}}),
        ("self", 1),
    ],
)
def test_a_hostile_card_hides_none_of_the_others(name, value, zoo):
    bad = zoo.add(module_of("trec"))
    card = json.loads((bad.folder / "card.json").read_text())
    card[name] = value
    (bad.folder / "card.json").write_text(json.dumps(card))
    shutil.move(bad.folder, zoo.path / "aside")
    shutil.move(zoo.path / "aside", bad.folder)
    zoo.rebuild()
    assert len(zoo) == 2
    assert [problem.where for problem in zoo.verify()] == [f"modules/{bad.id}"]


def test_a_folder_whose_name_is_no_text_is_passed_over(zoo):
    os.mkdir(os.fsencode(zoo.path / "modules") + b"/\xff\xfe")
    assert len(zoo) == 2


def test_only_new_cards_are_read(zoo, cards_read):
    assert len(zoo) == 2
    assert cards_read == []
    added = zoo.add(module_of("trec"))
    cards_read.clear()
    assert len(Zoo(zoo.path).find(task="trec")) == 1
    assert cards_read == []
    shutil.copytree(added.folder, zoo.path / "copy")
    zoo.remove(added.id)
    os.rename(zoo.path / "copy", added.folder)  # put there by hand
    cards_read.clear()
    assert added.id in zoo.ids()
    assert cards_read == [added.id]


def test_a_folder_deleted_by_hand_is_no_longer_listed(zoo):
    shutil.rmtree(zoo.path / "modules" / zoo.ids()[0])
    assert len(zoo.ids()) == 1


def test_a_replaced_folder_is_read_again(zoo):
    folder = zoo.path / "modules" / zoo.ids()[0]
    shutil.copytree(folder, zoo.path / "copy")
    card = zoo.path / "copy" / "card.json"
    card.write_text(card.read_text().replace('"category": "questions"', '"category": "changed"'))
    shutil.rmtree(folder)
    os.rename(zoo.path / "copy", folder)
    assert [entry.id for entry in zoo.entries(category="changed")] == [folder.name]


def test_a_card_edited_in_place_is_seen_by_get_and_after_rebuild_by_find(zoo):
    card = zoo.path / "modules" / zoo.ids()[0] / "card.json"
    card.write_text(card.read_text().replace('"category": "questions"', '"category": "changed"'))
    assert zoo.get(zoo.ids()[0]).card.category == "changed"
    zoo.rebuild()
    assert len(zoo.find(category="changed")) == 1


def test_a_broken_card_hides_itself_only_and_is_told(zoo):
    broken = zoo.path / "modules" / "cola-lora-01234567"
    broken.mkdir()
    (broken / "card.json").write_text("{")
    assert len(zoo) == 2
    assert list(zoo.unreadable()) == [broken.name]
    assert "JSON" in zoo.unreadable()[broken.name]


def test_nothing_is_listed_again_while_the_folder_keeps_its_time_stamp(zoo, monkeypatch):
    modules = zoo.path / "modules"
    old = time.time() - 60
    os.utime(modules, (old, old))
    assert len(zoo) == 2
    calls = []
    real = Catalog._listing
    monkeypatch.setattr(Catalog, "_listing", lambda self: calls.append(1) or real(self))
    assert len(zoo) == 2
    assert calls == []
    zoo.add(module_of("trec"))
    assert len(zoo) == 3
    assert calls


def test_a_change_within_the_same_time_stamp_is_seen(zoo):
    modules = zoo.path / "modules"
    now = time.time()
    os.utime(modules, (now, now))
    assert len(zoo) == 2
    shutil.rmtree(modules / zoo.ids()[0])
    os.utime(modules, (now, now))
    assert len(zoo) == 1


def test_values_are_bound_not_pasted(zoo):
    assert zoo.entries(task="boolq' OR '1'='1") == []
    assert zoo.entries(category='"; DROP TABLE modules; --') == []
    assert len(zoo) == 2


def test_a_thousand_modules_are_listed_and_found_in_milliseconds(zoo):
    first = zoo.get(zoo.ids()[0])
    text = (first.folder / "card.json").read_text()
    for number in range(1000):
        name = f"task{number}-lora-{number:08x}"
        folder = zoo.path / "modules" / name
        folder.mkdir()
        (folder / "card.json").write_text(
            text.replace(first.id, name).replace(f'"task": "{first.card.task}"', f'"task": "task{number}"')
        )
    assert len(zoo) == 1002
    seconds = []
    for ask in (lambda: zoo.entries(), lambda: zoo.find(task="task500"), lambda: zoo.find(method="lora")):
        best = min(_seconds(ask) for _ in range(5))
        seconds.append(best)
    assert max(seconds) < 0.1, seconds  # 2 to 10 ms on an idle machine


def _seconds(ask):
    begin = time.process_time()  # of this process alone: the machine may be busy
    ask()
    return time.process_time() - begin


def test_the_cache_folder_depends_on_the_full_path(tmp_path, monkeypatch):
    (tmp_path / "a" / "zoo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    assert catalog_file.cached_path(tmp_path / "a" / "zoo") == catalog_file.cached_path(type(tmp_path)("zoo"))
    assert catalog_file.cached_path(tmp_path / "b" / "zoo") != catalog_file.cached_path(type(tmp_path)("zoo"))
