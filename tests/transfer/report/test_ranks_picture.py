"""The picture of ranks shows every number that was counted."""

from __future__ import annotations

import pytest

from transfer.deltas.ranks import PlaceRank, Ranks
from transfer.report.ranks import draw_ranks
from zoo import PathError

RANKS = Ranks(
    (
        PlaceRank("encoder.layer.0.query", 3, 8, 64, 0, "query"),
        PlaceRank("encoder.layer.1.query", 0, 8, 64, 1, "query"),
        PlaceRank("encoder.layer.1.dense", 7, 8, 96, 1, "dense"),
        PlaceRank("pooler", 5, 8, 64, None, "pooler"),
    )
)


def test_every_rank_and_every_sum_is_in_the_picture(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text stays text
    text = draw_ranks(RANKS, tmp_path / "ranks.svg", "toy").read_text()
    for said in ("query  (sum 3)", "dense  (sum 7)", "(7)", "(3)", "toy", "1,184 of 2,304 parameters kept (51%)"):
        assert f">{said}<" in text, said
    assert text.count(">0<") >= 2  # the layer's number, and the rank of a place that is gone
    assert draw_ranks(RANKS, tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


def test_a_place_for_no_picture_is_refused(tmp_path):
    with pytest.raises(PathError, match="does not end as a picture"):
        draw_ranks(RANKS, tmp_path / "ranks.txt")
    with pytest.raises(PathError, match="there is no folder"):
        draw_ranks(RANKS, tmp_path / "nowhere" / "ranks.png")
