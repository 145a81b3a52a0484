"""The samples shipped with the package hold what the documentation says of them."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from transfer.tasks import load_task
from transfer.tasks.sampling import _bare
from transfer.tasks.sources import sample_names


@pytest.fixture(scope="module")
def samples():
    return {name: load_task(name, source="sample") for name in sample_names()}


def test_there_are_three():
    assert sample_names() == ["boolq", "nli", "sentiment"]


@pytest.mark.parametrize("name", sample_names())
class TestEachSample:
    def test_is_large_enough(self, name, samples):
        sizes = samples[name].sizes
        assert sizes["train"] >= 64
        assert sizes["dev"] >= 64
        assert sizes["test"] >= 128

    def test_is_balanced(self, name, samples):
        for split in samples[name].splits.values():
            counts = Counter(split["label"])
            assert len(counts) == len(samples[name].labels)
            assert max(counts.values()) == min(counts.values())

    def test_never_repeats_an_input(self, name, samples):
        inputs = [_bare(text) for split in samples[name].splits.values() for text in split["input"]]
        assert max(Counter(inputs).values()) == 1

    def test_says_where_it_comes_from(self, name, samples):
        task = samples[name]
        assert task.origin == "sample"
        assert task.license == "Apache-2.0"
        assert len(task.notes) == 1
        assert "sample" in task.notes[0]
        assert task.kind == "classification"

    def test_has_fields(self, name, samples):
        expected = {"boolq": ("question", "context"), "nli": ("premise", "hypothesis"), "sentiment": ("text",)}
        assert samples[name].fields == expected[name]


def test_each_boolq_question_stands_once_with_yes_and_once_with_no_in_one_split(samples):
    home = {}
    for split, rows in samples["boolq"].splits.items():
        answers = defaultdict(list)
        for row in rows:
            question = row["input"].partition(" context: ")[0]
            answers[question].append(row["choices"][row["label"]])
            assert home.setdefault(question, split) == split
        assert all(sorted(said) == ["no", "yes"] for said in answers.values())
