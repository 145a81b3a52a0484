"""Several processes writing at once, and kills at any moment."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from zoo_toys import module_of, signature_of

from zoo import UnknownModuleError, Zoo, ZooError
from zoo.locking import writing

# Children are forked from a server that has imported everything: they start in milliseconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pytest", __name__, "zoo.writing", "zoo.starts", "zoo.formats.peft"])


def write(path, log, first, last):
    """Add modules one after the other, take every fourth out again, and log each once it is done (or begun: `-`)."""
    zoo, file = Zoo(path), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"ready\n")
    for number in range(first, last):
        stored = zoo.add(module_of(f"task{number % 3}", seed=number, signature=signature_of(number % 2), start=True))
        os.write(file, f"{stored.id}\n".encode())
        if number % 4 == 3:
            os.write(file, f"-{stored.id}\n".encode())
            zoo.remove(stored.id)
    os.write(file, b"done\n")


def start(tmp_path, first, last):
    """A writer of its own process, and the file that it logs to."""
    log = tmp_path / f"log-{first}"
    log.touch()
    process = CONTEXT.Process(target=write, args=(tmp_path / "zoo", log, first, last))
    process.start()
    return process, log


def told(log):
    """(ids said to be in, ids said to be about to go)."""
    lines = set(log.read_text().split()) - {"ready", "done"}
    return {line for line in lines if line[0] != "-"}, {line[1:] for line in lines if line[0] == "-"}


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    # The first two add some of the same modules at once.
    writers = [start(tmp_path, 0, 3), start(tmp_path, 1, 3), start(tmp_path, 100, 108), start(tmp_path, 200, 208)]
    expected: set[str] = set()
    for process, log in writers:
        process.join(120)
        assert process.exitcode == 0
        added, removed = told(log)
        expected |= added - removed
    zoo = Zoo(tmp_path / "zoo")
    assert zoo.verify() == []
    assert len(expected) == 3 + 6 + 6
    assert set(zoo.ids()) == expected == set(os.listdir(zoo.path / "modules"))
    assert list((zoo.path / ".incoming").iterdir()) == []


def test_kill_9_at_any_moment_leaves_every_earlier_module_whole(tmp_path):
    randomly, zoo = random.Random(0), Zoo(tmp_path / "zoo")
    added: set[str] = set()
    removed: set[str] = set()
    for round_ in range(8):
        writers = [start(tmp_path, 10_000 * round_ + 1000 * n, 10**7) for n in range(2)]
        while not all(log.read_text().count("\n") > 1 for _, log in writers):
            time.sleep(0.005)
        time.sleep(randomly.uniform(0, 0.2))
        for process, _ in writers:
            os.kill(process.pid, signal.SIGKILL)
        for process, log in writers:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
            one, other = told(log)
            added |= one
            removed |= other
        assert zoo.verify() == []
        assert zoo.unreadable() == {}
        assert added - removed <= set(zoo.ids())
    assert len(added) >= 16
    for module in zoo:
        assert len(module.tensors()) == 8
        assert module.signature.centroid is not None
        assert module.start() is not None
    zoo.add(module_of("afterwards", signature=signature_of()))  # no lock was left behind
    assert zoo.verify() == []


def test_threads_that_add_the_same_module_all_get_it(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(lambda _: Zoo(tmp_path).add(module_of(signature=signature_of(), start=True)), range(8)))
    assert len(set(stored)) == 1
    assert Zoo(tmp_path).verify() == []
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_lock_that_is_held_is_waited_for_and_then_told(tmp_path):
    with writing(tmp_path), pytest.raises(ZooError, match="another process"), writing(tmp_path, wait_seconds=0.05):
        raise AssertionError("two have the lock")
    # The holder is out, so it can be taken again, and is then held again.
    with writing(tmp_path, wait_seconds=0), pytest.raises(ZooError), writing(tmp_path, wait_seconds=0):
        raise AssertionError("two have the lock")


def test_readers_see_whole_modules_only_while_others_write(tmp_path):
    process, _ = start(tmp_path, 0, 12)
    zoo, read = Zoo(tmp_path / "zoo"), 0
    while process.is_alive():
        for module in zoo.find():
            with contextlib.suppress(UnknownModuleError):  # it may be removed between the two lines
                assert len(module.tensors()) == 8
                read += 1
    process.join()
    assert process.exitcode == 0
    assert read
    assert len(zoo) == 9
