"""The benchmark of stopping rules: what each looks at, and the table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.stopping.run import DRAWS, LOOKS, RULES, STARTS, Candidate, accuracies
from benchmarks.stopping.table import table_rows

LABELS = np.array([0, 1] * 20)


def scores(right, size):
    """Two choices of which the first `right` of 40 examples are right, all equally sure."""
    sign = np.where(np.arange(40) < right, 1.0, -1.0) * size
    return np.where(LABELS[:, None] == np.arange(2), sign[:, None], 0.0)


def test_a_late_step_with_large_scores_loses_by_loss_and_wins_by_the_others():
    early, late = Candidate(10, scores(24, 0.5), LABELS), Candidate(LOOKS[-1], scores(36, 9.0), LABELS)
    seen = {one.step: one.on(np.arange(40)) for one in (early, late)}
    chosen = {name: min(seen, key=lambda step: rule(step, seen[step])) for name, rule in RULES.items()}
    assert chosen.pop("loss") == 10
    assert set(chosen.values()) == {LOOKS[-1]}


def test_accuracy_counts_on_what_was_not_drawn():
    found = accuracies([Candidate(0, scores(40, 1.0), LABELS), Candidate(10, scores(0, 1.0), LABELS)], few=8)
    assert set(found) == {*RULES, "best there is"}
    assert found.pop("last step, rate by calibrated loss") == 1.0  # neither is the last
    assert set(found.values()) == {1.0}
    alone = accuracies([Candidate(0, scores(30, 1.0), LABELS)], few=8)
    assert alone["loss"] == pytest.approx(30 / 40, abs=3 * 0.43 / np.sqrt(32 * DRAWS))


def test_the_table_needs_both_starts():
    rows = [{"target": "trec", "start": start, "accuracy": {"loss": 0.5 + n / 10}} for n, start in enumerate(STARTS)]
    rows.append({"target": "mrpc", "start": STARTS[0], "accuracy": {"loss": 0.9}})
    assert table_rows(rows) == [["loss", "1", "0.500", "0.600"]]
    assert table_rows(rows[-1:]) == []
