"""Two small tasks that a tiny backbone can learn, some that cannot be built, and a tiny backbone in a folder."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from small_tasks import FAST, by_chance, sentiment, write_task

from transfer.building import BuildSettings, build, build_zoo, work


@pytest.fixture
def tasks(tmp_path):
    return write_tasks(tmp_path / "tasks")


def write_tasks(folder):
    write_task(folder / "moods", sentiment, category="sentiment", license="MIT", source="written for this test")
    write_task(folder / "chance", by_chance, category="noise")
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-bert")
    tiny.tiny_model("bert").save_pretrained(folder)
    tiny.tokenizer_for("bert").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def settings(bert_folder):
    return BuildSettings(backbone=bert_folder, methods=("lora",), tune=FAST, precision="fp32", max_length=64)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, settings):
    """A zoo built from both tasks in processes of their own: its folder, what was built, what was said."""
    folder = tmp_path_factory.mktemp("finished")
    said = []
    result = build_zoo(write_tasks(folder / "tasks"), folder / "zoo", settings, workers=2, say=said.append)
    return folder / "zoo", result, said


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of that zoo."""
    return shutil.copytree(finished[0], tmp_path / "zoo")


@pytest.fixture
def in_process(monkeypatch):
    """Jobs run in a thread of this process, which is quicker than processes that import torch."""

    def pool(settings, out, tasks, workers, threads):
        return ThreadPoolExecutor(1, initializer=work.begin, initargs=(settings, out, tasks, threads))

    monkeypatch.setattr(build, "_pool", pool)
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
    work._Worker.backbone = None
