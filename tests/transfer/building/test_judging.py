"""Paired standard errors, the rule, and what licences forbid: by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transfer.building import forbids_commercial_use
from transfer.building.records import Record, Records
from transfer.building.source import always, paired_z

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=8, max_size=60)


def record(**changed):
    metrics = {"dev": {"accuracy": 0.8}, "untrained_dev": {"accuracy": 0.5}, "majority_dev": {"accuracy": 0.7}}
    base = dict.fromkeys(Record.__dataclass_fields__, "")
    known = {"kind": "classification", "sizes": {"dev": 32}, "z": {"untrained": 3.0, "majority": 1.7}}
    return Record(**{**base, **known, "metrics": metrics, **changed})


def test_paired_z_by_hand():
    ours, theirs = np.array([1.0, 1, 1, 1, 0] * 2), np.array([0.0, 1, 0, 1, 1] * 2)
    # differences 1 0 1 0 -1, twice: mean .2, variance 2 (.64 + .04 + .64 + .04 + 1.44) / 9 = 5.6 / 9
    assert paired_z(ours, theirs) == pytest.approx(0.2 / math.sqrt(5.6 / 9 / 10))


@given(ANSWERS)
def test_paired_z_has_the_sign_of_the_difference_and_turns_with_the_sides(answers):
    ours, theirs = np.array(answers, dtype=float).T
    z = paired_z(ours, theirs)
    assert math.isfinite(z)
    assert np.sign(z) == np.sign(ours.mean() - theirs.mean())
    assert paired_z(theirs, ours) == -z


def test_paired_z_where_nothing_varies():
    assert paired_z(np.ones(9), np.ones(9)) == 0
    assert paired_z(np.ones(9), np.zeros(9)) == 1e9


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_a_handful_of_examples_shows_nothing(n):
    assert paired_z(np.ones(n), np.zeros(n)) == 0
    found = record(z={"untrained": 0.0, "majority": 0.0}, sizes={"dev": n}).reason(1.65)
    assert found.endswith(f"z 0.00; {n} examples are too few to tell)")


def test_the_weaker_comparison_decides():
    assert record().clearness == 1.7
    assert record().reason(1.65) is None
    assert record().reason(1.7) == "not clearly better than the majority label on dev (+0.100 accuracy, z 1.70)"
    assert (
        record(z={"untrained": -1.0, "majority": 2.0})
        .reason(1.65)
        .startswith("not clearly better than the untrained backbone on dev (+0.300")
    )


def test_always_the_same_choice():
    found = always(1, [type("Row", (), {"label": label}) for label in (1, 0, 1, 1)])
    assert found.accuracy == 0.75


@pytest.mark.parametrize(
    "licence",
    [
        "CC BY-NC-SA 3.0 (original)",
        "cc-by-nc-4.0",
        "MIT (package); original BBC, non-commercial research",
        "non-commercial research only",
        "noncommercial",
        "Non commercial use",
        "for research use only",
        "academic use only",
        "research purposes only",
        "no commercial use",
        "Microsoft Research shared source (original)",
    ],
)
def test_a_licence_that_forbids_commercial_use(licence):
    assert forbids_commercial_use(licence)


@pytest.mark.parametrize(
    "licence",
    [
        "",
        "unknown",
        "MIT",
        "Apache-2.0 (copy); original unknown",
        "CC BY-SA 4.0",
        "CC0 (original)",
        "ODC-BY 1.0",
        "ncsa",
    ],
)
def test_a_licence_that_does_not(licence):
    assert not forbids_commercial_use(licence)


@pytest.mark.parametrize(("value", "dtype"), [(0.5, torch.float16), (0.1, torch.float32)])
def test_a_start_is_made_once_and_kept_exactly_in_fp16_where_that_does(tmp_path, value, dtype):
    records, made = Records(tmp_path), []

    def make():
        made.append(1)
        return {"a": torch.tensor([value])}

    first = records.start("lora", make)
    assert first["a"].dtype == dtype
    assert first["a"].float().item() == torch.tensor(value).item()
    assert torch.equal(Records(tmp_path).start("lora", make)["a"], first["a"])
    assert made == [1]


def test_a_record_without_its_end_is_no_record(tmp_path, monkeypatch):
    records = Records(tmp_path)
    assert records.get("moods", "lora") is None
    whole = record(task="moods", method="lora")

    def full(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("json.dumps", full)
        with pytest.raises(OSError, match="disk full"):
            records.put(whole, {"a": torch.ones(1)})
    assert records.get("moods", "lora") is None
    assert not list((tmp_path / ".build").glob(".part-*"))
    records.put(whole, {"a": torch.ones(1)})
    assert records.get("moods", "lora") == whole
    assert records.tensors("moods", "lora")["a"].item() == 1


def test_records_and_the_start_have_files_of_their_own(tmp_path):
    records = Records(tmp_path)
    begin = {"w": torch.ones(2)}
    assert torch.equal(records.start("lora", lambda: begin)["w"].float(), begin["w"])
    named = [("start", "lora"), ("a", "parallel-adapter"), ("a-parallel", "adapter")]
    for place, (task, method) in enumerate(named):
        records.put(record(task=task, method=method), {"w": torch.full((2,), float(place + 5))})
    for place, (task, method) in enumerate(named):
        assert records.get(task, method).task == task
        assert float(records.tensors(task, method)["w"][0]) == place + 5
    assert torch.equal(records.start("lora", lambda: begin)["w"].float(), begin["w"])
