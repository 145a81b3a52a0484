"""Tasks that share sentences are found, their wording is not taken for it."""

from __future__ import annotations

import json

from benchmarks.shared_inputs import related, sentences, shares


def test_sentences_are_compared_without_marks_case_and_punctuation():
    found = sentences("premise: A man, in a Leather jacket smiles. Yes! hypothesis: the man is happy today")
    assert found == {"a man in a leather jacket smiles", "the man is happy today"}


def write(folder, name, train, test):
    (folder / name).mkdir()
    (folder / name / "task.json").write_text(json.dumps({"name": name, "kind": "classification"}))
    for split, rows in {"train": train, "dev": [], "test": test}.items():
        lines = [json.dumps({"input": row, "choices": ["a", "b"], "label": 0}) for row in rows]
        (folder / name / f"{split}.jsonl").write_text("\n".join(lines))


def test_shares_count_the_targets_test_rows(tmp_path):
    common = [f"text: the film number {i} was quite a surprise" for i in range(10)]
    wording = [f"question: is this sentence right or wrong? item {i}" for i in range(10)]
    write(tmp_path, "left", common[:5] + wording, [f"text: nothing of this stands elsewhere {i}" for i in range(4)])
    write(tmp_path, "right", wording, common[3:7])
    assert shares(tmp_path) == {"right": {"left": 0.5}}


def test_a_group_is_related_both_ways():
    assert "sst2" in related("mr")
    assert "mr" in related("sst2")
    assert "snli" in related("mpe")
    assert related("trec") == ["trec"]
