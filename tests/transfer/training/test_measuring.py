"""What is measured is what a loop over the rows would find."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from sklearn.metrics import f1_score

from transfer.training import measure
from transfer.training.measuring import Measured


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_measure_agrees_with_row_by_row(arch):
    backbone = tiny.tiny_backbone(arch)
    rows = tiny.sentiment_rows(9)
    found = measure(backbone, backbone.encode(rows))
    logits = [backbone.choice_logits([row])[0] for row in rows]
    assert found.predicted.tolist() == [int(row.argmax()) for row in logits]
    assert found.losses == pytest.approx([float(backbone.loss([row])) for row in rows], abs=1e-5)
    assert found.accuracy == np.mean(
        [int(scores.argmax()) == row["label"] for scores, row in zip(logits, rows, strict=True)]
    )
    assert found.loss == pytest.approx(found.losses.mean())


def test_metrics_by_hand():
    scores = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    found = Measured(np.array([1.0, 2.0, 3.0]), predicted=scores.argmax(1), labels=np.array([0, 1, 0]), scores=scores)
    # label 0: precision 1, recall 1/2; label 1: precision 1/2, recall 1; both have F1 2/3.
    assert found.metrics() == pytest.approx({"loss": 2.0, "accuracy": 2 / 3, "macro_f1": 2 / 3})
    assert found.macro_f1 == pytest.approx(f1_score(found.labels, found.predicted, average="macro"))
    assert found.correct.tolist() == [1.0, 1.0, 0.0]
