"""Bars are off until asked for, and gone afterwards."""

from __future__ import annotations

import pytest

from transfer import progress
from transfer.progress import progress_bars, track


def test_without_bars_nothing_is_shown(capsys):
    with track("tuning", 10) as report:
        report(10)
    out = capsys.readouterr()
    assert out.out == out.err == ""


def test_bars_count_what_is_reported_and_go_away():
    with progress_bars():
        bars = progress._bars.get()
        with track("modules", 4) as outer, track("tuning", 10) as inner:
            outer(1)
            inner(7)
            assert [(bar.description, bar.total, bar.completed) for bar in bars.tasks] == [
                ("modules", 4, 1),
                ("tuning", 10, 7),
            ]
        assert bars.tasks == []
    assert progress._bars.get() is None


def test_an_exception_takes_the_bars_away():
    with pytest.raises(RuntimeError, match="inside"), progress_bars(), track("tuning", 3):
        raise RuntimeError("inside")
    assert progress._bars.get() is None
