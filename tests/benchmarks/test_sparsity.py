"""The sparsity benchmark: which stage counts, what a LoRA of equal size is, and the table."""

from __future__ import annotations

import tiny

from benchmarks.sparsity.picture import draw
from benchmarks.sparsity.run import chosen, lora_of_size
from benchmarks.sparsity.table import latest, shrink_rows, table_rows
from transfer.deltas import LoRA, SoRA, ranks_of


def sora(cut, share, dev, accuracy, seed=0, target="trec"):
    common = {"target": target, "kind": "sora", "seed": seed, "stage": "run", "cut": cut, "share": share}
    more = {"train_accuracy": dev / 2 + 0.5, "parameters": round(1000 * share), "seconds": 10.0}
    return {**common, "dev_accuracy": dev, "accuracy": accuracy, **more}


def lora(kind, accuracy, seed=0, target="trec"):
    common = {"target": target, "kind": kind, "seed": seed, "stage": "run", "cut": None, "seconds": 50.0}
    return {**common, "accuracy": accuracy, "parameters": 1000 if kind == "lora-start" else 400}


FOUND = [sora(0.0, 1.0, 0.9, 0.5), sora(0.1, 0.6, 0.7, 0.6), sora(0.2, 0.4, 0.7, 0.8), sora(0.3, 0.1, 0.6, 0.9)]


def test_dev_chooses_among_small_ones_and_test_does_not():
    assert chosen(FOUND)["cut"] == 0.2
    assert chosen(FOUND[:1])["cut"] == 0.0
    worse = [dict(row, accuracy=1 - row["accuracy"]) for row in FOUND]
    assert chosen(worse)["cut"] == 0.2


def test_a_lora_of_equal_size_is_just_below_it():
    model = tiny.tiny_model("bert")
    start = ranks_of(LoRA(rank=8, where=SoRA.where).attach(model))
    widest = max(place.width for place in start.places)
    for share in (0.9, 0.5, 0.21):
        wanted = round(share * start.parameters)
        method = lora_of_size(wanted, start)
        attached = method.attach(tiny.tiny_model("bert"))
        assert wanted - widest < ranks_of(attached).parameters <= wanted
        assert set(ranks_of(attached).kept) == set(start.kept)
        assert {site.scale for site in attached.sites} == {2.0}
    assert ranks_of(lora_of_size(1, start).attach(tiny.tiny_model("bert"))).parameters == start.parameters // 8


def test_the_tables_show_means_of_what_was_chosen(tmp_path):
    rows = [
        *(dict(row) for row in FOUND),
        *(dict(row, seed=1, accuracy=row["accuracy"] - 0.2) for row in FOUND),
        *(lora(kind, value, seed) for kind, value in (("lora-start", 0.7), ("lora-final", 0.4)) for seed in (0, 1)),
        {"target": "trec", "kind": "sora", "seed": 0, "stage": "rate", "cut": None, "dev_loss": 1.0},
        *(dict(row, target="mrpc") for row in FOUND),  # not finished: no line yet
    ]
    line, mean = table_rows(rows)
    assert line == ["trec", "2", "0.700", "0.700", "0.400", "40%", "50", "10"]
    assert mean == ["mean", "", *line[2:]]
    assert table_rows([]) == []
    other = [dict(row, steps=9) for row in rows]
    assert latest([*other, *rows]) == rows
    assert latest([]) == []
    assert shrink_rows(rows)[2] == ["0.2", "40%", "0.733", "89.5", "77.8"]
    assert draw(rows, tmp_path / "sparsity.png").read_bytes().startswith(b"\x89PNG")
