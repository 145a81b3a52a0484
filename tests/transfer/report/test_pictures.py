"""Pictures are whole SVG that says what it was given."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from transfer.report import pictures
from transfer.report.pictures import OTHER, STRONG, WEAK, bars, curves, heat_map

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bars_name_every_bar_and_tell_the_weak_apart():
    svg = bars(["a-lora", "b <i>"], [0.5, -0.2], "score", [True, False])
    assert {"a-lora", "b <i>", "score"} <= set(texts(svg))
    assert STRONG in svg
    assert WEAK in svg


def test_a_heat_map_takes_rows_of_different_lengths():
    """A zoo may hold modules of deeper places than others."""
    svg = heat_map(["long", "short"], [[1.0, 2.0, 3.0], [1.0]], "norm")
    assert {"long", "short", "0", "2", "block", "norm"} <= set(texts(svg))


def test_a_block_that_is_subtracted_looks_like_no_weight_less_than_one_of_weight_zero():
    picture = heat_map(["a"], [[0.9, 0.0, -0.9]], "weight")
    data = re.search(r"data:image/png;base64,\s*([^\"]+)", picture)[1]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    middle = pixels[pixels.shape[0] // 2]
    high, zero, low = (middle[int(len(middle) * at)] for at in (1 / 6, 1 / 2, 5 / 6))
    assert zero.min() > 235  # white
    assert max(high.min(), low.min()) < 120
    assert np.abs(high - low).max() > 60  # and of two colours


def test_long_names_are_shortened_beside_a_bar_and_a_row():
    name = "a-task-of-a-name-that-goes-on-" * 4
    for picture in (bars([name], [1.0], "x"), heat_map([name], [[1.0]], "x")):
        (shown,) = [text for text in texts(picture) if text.startswith("a-task")]
        assert len(shown) == 48
        assert shown.endswith("…")


def test_curves_are_told_apart_by_more_than_colour():
    rows = [{"step": 0, "calibrated": 1.0}, {"step": 4, "calibrated": 0.5}]
    svg = curves({"here": rows, "there": rows}, "dev loss")
    assert {"here", "there", "step", "dev loss"} <= set(texts(svg))
    assert STRONG in svg
    assert OTHER in svg
    assert "stroke-dasharray" in svg


@pytest.mark.parametrize("draw", [lambda: bars(["a"], [1.0], "x"), lambda: heat_map(["a"], [[1.0, 2.0]], "x")])
def test_the_same_numbers_give_the_same_picture(draw):
    assert draw() == draw()


@pytest.fixture
def axes(monkeypatch):
    """What a picture draws, in place of its SVG."""
    monkeypatch.setattr(pictures, "_svg", lambda figure: figure.axes[0])


def test_pictures_show_the_numbers(axes):
    drawn = bars(["a", "b"], [0.5, -0.2], "score")
    assert [patch.get_width() for patch in drawn.patches] == [0.5, -0.2]
    shown = heat_map(["long", "short"], [[1.0, 2.0], [3.0]], "norm").images[0].get_array()
    assert shown.filled(-1).tolist() == [[1.0, 2.0], [3.0, -1.0]]
    rows = [{"step": 0, "calibrated": 1.0}, {"step": 4, "calibrated": 0.5}]
    assert curves({"here": rows}, "dev loss").lines[0].get_xydata().tolist() == [[0, 1.0], [4, 0.5]]
