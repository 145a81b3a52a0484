"""What is printed for machines."""

from __future__ import annotations

import json
import math

import numpy as np

from transfer.cli.output import Output


def test_only_the_flexible_column_is_cut_where_that_is_enough(capsys):
    names = ("result", "from", "accuracy", "95% interval")
    row = ("demo/sentiment-lora-scratch", "initialization " * 4, 0.75, "0.705 to 0.790")
    Output().table(names, [row], flexible="from")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert all(whole in printed for whole in ("demo/sentiment-lora-scratch", "0.750", "0.705 to 0.790"))
    assert "initialization init" in printed


def test_numbers_that_json_does_not_have_are_null(capsys):
    Output(as_json=True).json(
        {"loss": math.nan, "rows": [{"a": -math.inf, "b": np.float32(0.5)}], "n": np.int64(3), "all": np.array([1, 2])}
    )
    printed = capsys.readouterr().out
    assert "NaN" not in printed
    assert json.loads(printed) == {"loss": None, "rows": [{"a": None, "b": 0.5}], "n": 3, "all": [1, 2]}
