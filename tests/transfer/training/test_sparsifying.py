"""Schedules of xi, and the stages that a SoRA is trained in."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tiny
import torch

from transfer.deltas import LoRA, SoRA
from transfer.errors import ConfigError, DivergedError
from transfer.training import TuneSettings, XiSchedule, sparsify, tune
from transfer.training.schedules import spaced


def test_schedules_are_spaced_as_the_formulas_say():
    assert spaced("linear", 0, 6, 4) == [0, 2, 4, 6]
    log = spaced("log-linear", 0.5, 2.0, 5)
    assert np.allclose(np.diff(np.exp(log)), (math.e**2 - math.e**0.5) / 4)
    exp = spaced("exp-linear", 1e-4, 1e-1, 4)
    assert np.allclose(np.array(exp[1:]) / exp[:-1], 10)
    assert [log[0], log[-1], exp[0], exp[-1]] == [0.5, 2.0, 1e-4, 1e-1]


def test_every_schedule_starts_warm_and_rises():
    assert XiSchedule.named("linear", 4e-4, 3).values == (0, 2e-4, 4e-4)
    assert XiSchedule.named("exp-linear", 1e-2, 3).values == pytest.approx((0, 1e-4, 1e-3, 1e-2))
    assert XiSchedule.parsed("1e-4,5e-4", 0).values == (0, 1e-4, 5e-4)
    assert XiSchedule(values=(0, 0, 1)).values == (0, 0, 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: XiSchedule(values=()), "at least 0"),
        (lambda: XiSchedule(values=(0, -1)), "at least 0"),
        (lambda: XiSchedule(values=(0,), stage_steps=0), "stage_steps"),
        (lambda: XiSchedule.named("cubic", 1), "no schedule 'cubic'"),
        (lambda: XiSchedule.parsed("a,b", 1), "no schedule 'a,b'"),
        (lambda: spaced("linear", 0, 1, 1), "at least 2"),
        (lambda: spaced("linear", 2, 1, 3), "upwards"),
        (lambda: spaced("exp-linear", 0, 1, 3), "cannot begin at 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.fixture(scope="module")
def case():
    backbone = tiny.tiny_backbone("bert")
    method = SoRA(rank=3, where=("attn.q", "ff.w2"), xi=99)  # its own xi is not used
    rows = backbone.encode(tiny.sentiment_rows(24)), backbone.encode(tiny.sentiment_rows(16, seed=1))
    return backbone, method, rows, method.draw(backbone.model)


SETTINGS = TuneSettings(steps=8, batch_size=8, learning_rate=1e-2, eval_every=4)
SCHEDULE = XiSchedule(values=(0, 0.06, 0.15), stage_steps=5)


@pytest.fixture(scope="module")
def found(case):
    backbone, method, (train, dev), start = case
    return sparsify(backbone, method, train, tensors=start, schedule=SCHEDULE, dev=dev, settings=SETTINGS)


def test_each_stage_is_trained_from_the_last_one(case, found):
    backbone, method, (train, dev), start = case
    assert [stage.xi for stage in found.stages] == [0, 0.06, 0.15]
    first = tune(backbone, SoRA(**{**vars(method), "xi": 0.0}), train, tensors=start, settings=SETTINGS, dev=dev)
    assert all(torch.equal(found.stages[0].tuned.tensors[n], t) for n, t in first.tensors.items())
    later = TuneSettings(**{**vars(SETTINGS), "steps": 5})
    second = tune(
        backbone,
        SoRA(**{**vars(method), "xi": 0.06}),
        train,
        tensors=first.tensors,
        settings=later,
        dev=dev,
        keep="last",
    )
    assert all(torch.equal(found.stages[1].tuned.tensors[n], t) for n, t in second.tensors.items())
    kept = [stage.ranks.parameters for stage in found.stages]
    assert kept[0] == found.stages[0].ranks.start_parameters
    assert kept[0] > kept[1] > kept[2] > 0


def test_memorisation_and_generalisation_are_shares_of_the_first_stage(found):
    first, *_, last = found.stages
    assert (first.memorisation, first.generalisation) == (100, 100)
    assert last.memorisation == pytest.approx(100 * last.train["accuracy"] / first.train["accuracy"])
    assert last.generalisation == pytest.approx(100 * last.dev["accuracy"] / first.dev["accuracy"])
    assert last.to_json()["share"] == last.ranks.share


def test_the_sparsest_stage_is_no_worse_on_dev_than_the_first(found):
    dense = found.stages[0].dev["accuracy"]
    good = [n for n, stage in enumerate(found.stages) if stage.dev["accuracy"] >= dense]
    assert found.sparsest() == max(good)
    assert found.sparsest(tolerance=1.0) == 2
    whole = found.tuned()
    assert whole.steps == 8 + 5 + 5 == whole.best_step
    assert [row["step"] for row in whole.history] == [0, 4, 8, 12, 13, 17, 18]
    assert found.tuned(0).best_step == found.stages[0].tuned.best_step


def test_a_schedule_that_stopped_goes_on_with_the_stage_it_was_at(case, found, tmp_path, monkeypatch):
    from transfer.training import trainer

    backbone, method, (train, dev), start = case
    steps = []

    def watch(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if len(steps) == 8 + 5 + 2:
            raise KeyboardInterrupt

    def again():
        options = {"schedule": SCHEDULE, "dev": dev, "settings": SETTINGS, "folder": tmp_path}
        return sparsify(backbone, method, train, tensors=start, **options)

    monkeypatch.setattr(trainer._Progress, "on_step_end", watch)
    with pytest.raises(KeyboardInterrupt):
        again()
    result = again()
    assert steps[8 + 5 + 2 :] == [1, 2, 3, 4, 5]  # nothing of the first two stages is done again
    for one, other in zip(result.stages, found.stages, strict=True):
        assert all(torch.equal(one.tuned.tensors[n], t) for n, t in other.tuned.tensors.items())
        assert one.tuned.history == other.tuned.history


def test_where_a_later_stage_diverges_no_stage_is_kept(case, found, tmp_path, monkeypatch):
    from transfer.training import sparsifying

    backbone, method, (train, dev), start = case

    def run():
        options = {"schedule": SCHEDULE, "dev": dev, "settings": SETTINGS, "folder": tmp_path / "run"}
        return sparsify(backbone, method, train, tensors=start, **options)

    def too_fast(backbone, at, *args, settings, **kwargs):
        settings = dataclasses.replace(settings, learning_rate=1e38) if at.xi else settings
        return tune(backbone, at, *args, settings=settings, **kwargs)

    monkeypatch.setattr(sparsifying, "tune", too_fast)
    with pytest.raises(DivergedError):
        run()
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.undo()
    assert run().stages[0].tuned.history == found.stages[0].tuned.history


def test_what_has_no_gates_or_no_dev_is_refused(case):
    backbone, method, (train, dev), start = case
    with pytest.raises(ConfigError, match="for SoRA, got LoRA"):
        sparsify(backbone, LoRA(), train, tensors={}, schedule=SCHEDULE, dev=dev)
    with pytest.raises(ConfigError, match="needs dev"):
        sparsify(backbone, method, train, tensors=start, schedule=SCHEDULE, dev=[])
