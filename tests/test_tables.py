"""The tables on the pages are those of the rows that are checked in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import tables  # noqa: E402
from benchmarks.markdown import NOTHING  # noqa: E402


@pytest.mark.parametrize("page", tables.PAGES)
def test_pages_show_what_the_rows_say(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert tables.MARK.search(text), "no table on the page"
    assert tables.filled(text) == text, "run: python -m benchmarks.tables"


def test_a_table_without_rows_says_so():
    assert tables.markdown(["a", "b"], []) == NOTHING
    assert tables.markdown(["a", "b"], [[1, 2]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
