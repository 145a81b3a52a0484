"""The page of a recipe: what is in the recipe is on the page, escaped, and nothing is asked from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from transfer.ensembling.verdict import Verdict
from transfer.report import page, page_of, pictures, write_page

EVIL = "<script>alert('x')</script>"


def recipe(**changes):
    rows = [{"step": 0, "calibrated": 0.9}, {"step": 4, "calibrated": 0.6}]
    verdict = Verdict(
        outcome="helps",
        steps=20,
        n_dev=64,
        difference=-0.1,
        interval=(-0.2, -0.01),
        losses={"initialization": 0.5, "scratch": 0.6},
        licences=("MIT",),
        curves={"initialization": rows, "scratch": rows},
    )
    return {
        "target": {"name": f"reviews {EVIL}", "sizes": {"train": 64, "dev": 32}, "source": "reviews.csv", "notes": []},
        "method": "lora",
        "modules": [{"id": "sst2-lora-1", "category": "sentiment", "license": f"MIT {EVIL}"}],
        "scores": {"sst2-lora-1": 0.5, "rte-lora-2": -0.25},
        "weights": {"sst2-lora-1": 1.0, "rte-lora-2": 0.0},
        "block_norms": {"sst2-lora-1": [0.1, 0.2]},
        "estimator": "gradient:first-order",
        "how": "softmax",
        "merge": "linear",
        "handed_over": "merged",
        "licences": [f"MIT {EVIL}"],
        "notes": ["a note"],
        "seconds": {"score": 1.5},
        "versions": {"torch": "2.8"},
        "verdict": verdict.as_dict(),
        **changes,
    }


class Reader(HTMLParser):
    """Open tags, and attributes that would load something."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.headings = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [
            value
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "action") and not value.startswith("#")
        ]
        if tag not in ("meta", "path", "use", "rect", "image", "stop", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_all_parts_of_a_full_recipe_are_there():
    page = page_of(recipe())
    assert read(page).headings == [
        "The short tune, with and without",
        "How close the sources are",
        "What they weigh",
        "Block by block",
        "All sources",
        "Licences of the merged sources",
        "How it was made",
    ]
    assert "it helps after 20 steps" in page
    assert "the merge is handed over" in page


def test_strangers_words_are_escaped_and_nothing_is_loaded():
    page = page_of(recipe())
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert read(page).open == []
    loads = [value for value in read(page).loads if not value.startswith("data:image/png")]
    assert loads == []
    assert not re.search(r"url\((?!#)", page)


@pytest.mark.parametrize(("gone", "heading"), [("block_norms", "Block by block"), ("licences", "Licences")])
def test_what_a_recipe_lacks_is_no_part_of_the_page(gone, heading):
    assert heading not in page_of(recipe(**{gone: None}))


def test_modules_of_negative_weight_are_drawn_in_full_colour_and_listed_by_their_size(monkeypatch):
    drawn = []

    def bars(names, values, label, strong=None):
        drawn.append((list(names), strong))
        return pictures.bars(names, values, label, strong)

    monkeypatch.setattr(page, "bars", bars)
    text = page_of(
        recipe(scores={"a": 0.5, "b": 0.4, "c": 0.3}, weights={"a": 0.3, "b": 0.0, "c": -0.9}, block_norms={})
    )
    assert drawn[0] == (["a", "b", "c"], [True, False, True])
    table = text.partition("All sources")[2]
    assert re.findall(r"<tr><td>([abc])</td>", table) == ["c", "a", "b"]


def test_without_a_verdict_the_page_says_so():
    page = page_of(recipe(verdict=None))
    assert "No verdict" in page
    assert "The short tune" not in page


def test_scratch_that_is_handed_over_is_said():
    verdict = Verdict(outcome="hurts", steps=20, n_dev=2, diverged=True).as_dict()
    page = page_of(recipe(verdict=verdict, handed_over="scratch"))
    assert "scratch is handed over" in page
    assert 'class="verdict hurts"' in page


def test_what_was_tried_is_a_table():
    rows = [{"candidate": "scratch", "dev loss": 0.7}, {"candidate": "uniform", "dev loss": 0.6, "seconds": 3}]
    page = page_of(recipe(auto={"candidates": rows}))
    assert "<h2>What was tried</h2>" in page
    assert '<td class="number">0.7000</td><td class="number">-</td>' in page


def test_the_same_recipe_gives_the_same_file(tmp_path):
    first = write_page(recipe(), tmp_path / "a.html").read_bytes()
    assert write_page(recipe(), tmp_path / "a.html").read_bytes() == first
    assert first.startswith(b"<!doctype html>")
