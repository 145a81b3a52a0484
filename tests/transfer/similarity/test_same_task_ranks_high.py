"""On the embedded MiniLM: among eight modules the one trained on the target's own task ranks in the top three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset

from transfer.deltas import LoRA
from transfer.similarity import Target, module_signature, score, task_signature
from transfer.tasks import Task, load_task
from transfer.training import TuneSettings, tune
from zoo import Card, Module

Row = dict[str, Any]


def asked(rows: list[Row], part: Callable[[str], str], choices: list[str], label: Callable[[Row], int]) -> list[Row]:
    """A part of each input, with a question of its own about it."""
    return [{"input": part(row["input"]), "choices": choices, "label": int(label(row))} for row in rows]


def eight_tasks(*splits: str) -> dict[str, list[Row]]:
    """Three shipped samples, and five tasks on parts of their inputs: no two tasks have the same inputs.

    With the same inputs `embedding` and `neighbours` could not but tie, and three places hold a tie of three.
    """
    loaded = {name: load_task(name, source="sample") for name in ("sentiment", "nli", "boolq")}
    rows = {name: [row for split in splits for row in task.splits[split]] for name, task in loaded.items()}

    def premise(text: str) -> str:
        return text.split(" hypothesis: ")[0]

    def hypothesis(text: str) -> str:
        return "hypothesis: " + text.split(" hypothesis: ")[1]

    def question(text: str) -> str:
        return text.split(" context: ")[0]

    def context(text: str) -> str:
        return "context: " + text.split(" context: ")[1]

    def beginning(text: str) -> str:
        words = text.split()
        return " ".join(words[: len(words) // 2])

    def verb(row: Row) -> str:
        return str(row["input"].split()[1])

    return {
        **rows,
        "beginning": asked(rows["sentiment"], beginning, ["negative", "positive"], lambda row: row["label"]),
        "premise": asked(rows["nli"], premise, ["short", "long"], lambda row: len(premise(row["input"])) > 85),
        "hypothesis": asked(rows["nli"], hypothesis, ["apart", "together"], lambda row: row["label"] != 1),
        "question": asked(
            rows["boolq"], question, ["present", "past"], lambda row: verb(row) in ("did", "was", "were")
        ),
        "context": asked(rows["boolq"], context, ["no", "yes"], lambda row: row["label"]),
    }


def as_task(name: str, rows: list[Row]) -> Task:
    split = Dataset.from_list(rows)
    return Task(name=name, kind="classification", train=split, dev=split.select([]), test=split.select([]))


@pytest.fixture(scope="module")
def modules(embedded):
    """One LoRA for each task, trained on examples that no target has."""
    method = LoRA()
    start = method.draw(embedded.model)
    found = []
    for name, rows in eight_tasks("train").items():
        task = as_task(name, rows)
        encoded = embedded.encode(task.train)
        tensors = tune(embedded, method, encoded, tensors=start, settings=TuneSettings(steps=12)).tensors
        signature = task_signature(embedded, task).merge(module_signature(embedded, encoded, method, tensors, start))
        card = Card(
            task=name,
            method="lora",
            settings=method.settings(embedded.model),
            backbone="embedded",
            fingerprint=embedded.fingerprint,
        )
        found.append(Module.new(card, tensors, signature, start))
    return found


@pytest.fixture(scope="module")
def targets(embedded, modules):
    rows = eight_tasks("dev")
    return {
        name: Target.for_modules(as_task(name, rows[name]), embedded, modules)
        for name in ("sentiment", "nli", "question")
    }


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["gradient", "prediction", "embedding", "parameters", "neighbours"])
@pytest.mark.parametrize("name", ["sentiment", "nli", "question"])
def test_the_module_of_the_very_same_task_is_among_the_closest_three(name, estimator, embedded, modules, targets):
    scores = score(targets[name], modules, embedded, estimator=estimator, include_own=True)
    closest = [module_id.split("-lora-")[0] for module_id, _ in scores.top(3)]
    assert name in closest, scores.frame().to_string()
