"""A zoo built by `transfer zoo build`, then every family of estimators by `transfer init`, for every method."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

FAMILIES = ("embedding", "gradient", "parameters", "prediction", "neighbours")
WORDS = {  # what a tiny BERT that was never trained answers all alike
    "moods": ("a warm and funny film", "the plot is thin"),
    "music": ("someone makes music", "a man plays a guitar"),
}


def write_task(folder, *words):
    """An easy task: the words decide."""
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "dev", "test")):
        rows = [
            {"input": f"text: {words[n % 2]} {n} {number}", "choices": ["positive", "negative"], "label": n % 2}
            for n in range(32)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"kind": "classification", "category": "sentiment", "license": "MIT", "source": "written for this test"}
    (folder / "task.json").write_text(json.dumps(facts))


@pytest.fixture
def in_process(monkeypatch):
    """The build's jobs run in a thread of this process, which is quicker than processes that import torch."""
    from transfer.building import build, work

    def pool(settings, out, tasks, workers, threads):
        return ThreadPoolExecutor(1, initializer=work.begin, initargs=(settings, out, tasks, threads))

    threads = torch.get_num_threads()
    monkeypatch.setattr(build, "_pool", pool)
    yield
    work._Worker.backbone = None
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adapter", "prefix"])
def test_a_built_zoo_serves_every_estimator(method, transfer, backbone_folder, in_process, tmp_path):
    backbone, zoo = backbone_folder("bert"), tmp_path / "zoo"
    for name, words in WORDS.items():
        write_task(tmp_path / "tasks" / name, *words)
    write_task(tmp_path / "target", "a bright and solid coat", "a cold and broken kettle")
    common = ("--backbone", backbone, "--max-length", 48)
    built = transfer(
        *("zoo", "build", "--tasks", tmp_path / "tasks", "--out", zoo, "--methods", method, "--steps", 120),
        *("--batch-size", 8, "--workers", 2, *common, "--json"),
    )
    assert built.code == 0, built.err
    assert len(json.loads(built.out)["kept"]) == len(WORDS), built.out
    assert transfer("zoo", "verify", "--zoo", zoo).code == 0

    scores = {}
    for family in FAMILIES:
        made = transfer(
            *("init", "--target", tmp_path / "target", "--method", method, "--estimator", family, "--zoo", zoo),
            *(*common, "--examples", 16, "--guard-steps", 2, "--out", tmp_path / family, "--json"),
        )
        assert made.code == 0, f"{family}: {made.err}"
        recipe = json.loads(made.out)
        assert recipe["estimator"].startswith(f"{family}:")
        assert {name.partition("-")[0] for name in recipe["scores"]} == set(WORDS)
        assert sum(recipe["weights"].values()) == pytest.approx(1)
        assert recipe["verdict"]["outcome"] in ("helps", "hurts", "unclear")
        assert (tmp_path / family / "recipe.json").is_file()
        scores[family] = tuple(recipe["scores"].values())
    assert len(set(scores.values())) == len(FAMILIES), scores

    start = tmp_path / FAMILIES[0]
    tuned = transfer(
        "finetune",
        "--target",
        tmp_path / "target",
        *common,
        "--start",
        start,
        "--steps",
        2,
        "--out",
        tmp_path / "tuned",
    )
    assert tuned.code == 0, tuned.err
