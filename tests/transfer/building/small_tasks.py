"""Task folders to build from, quick to train on."""

from __future__ import annotations

import json
from pathlib import Path

import tiny

from transfer.training import TuneSettings

FAST = TuneSettings(steps=12, batch_size=8, learning_rate=2e-2, eval_every=6)


def write_task(folder: Path, rows, **facts) -> None:
    folder.mkdir(parents=True)
    for number, split in enumerate(("train", "dev", "test")):
        text = "".join(json.dumps(row) + "\n" for row in rows(number))
        (folder / f"{split}.jsonl").write_text(text)
    (folder / "task.json").write_text(json.dumps(facts))


def sentiment(number):
    """Easy: the words decide. The untrained tiny BERT gives everything the same answer."""
    words = ["the plot is thin", "a warm and funny film"]
    return [
        {"input": f"text: {words[i % 2]} {i} {number}", "choices": ["positive", "negative"], "label": i % 2}
        for i in range(32)
    ]


def by_chance(number):
    """Labels that have nothing to do with the input."""
    return [
        {**row, "label": (index // 2 + number) % 2} for index, row in enumerate(tiny.sentiment_rows(32, seed=number))
    ]
