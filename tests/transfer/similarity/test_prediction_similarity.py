"""The prediction family against values computed from the logits by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset

from transfer.deltas import METHODS, LoRA
from transfer.errors import ConfigError
from transfer.similarity import ESTIMATORS, Target
from transfer.similarity.prediction import (
    CalibratedLoss,
    Divergence,
    ErrorNorm,
    LabelCosine,
    PredictionLoss,
    ShortTunePerformance,
)
from transfer.training import TuneSettings, measure, tune

LOGITS = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])  # probabilities (3/4, 1/4) and (1/2, 1/2)


def fixed(logits, labels):
    """A target on which every module gives these logits."""
    sample = [SimpleNamespace(choices=[[1]] * 3, label=label) for label in labels]
    task = SimpleNamespace(name="fixed")
    return SimpleNamespace(sample=sample, task=task, outputs=lambda modules: [(logits, None)] * len(modules))


def one():
    return [SimpleNamespace(id="m")]


def test_el2n_by_hand():
    expected = -(math.hypot(0.25, 0.25) + math.hypot(0.5, 0.5)) / 2
    assert ErrorNorm().score(fixed(LOGITS, [0, 1]), one())[0] == pytest.approx(expected, rel=1e-6)


def test_label_cosine_by_hand():
    expected = (0.25 / math.hypot(0.75, 0.25) + math.sqrt(0.5)) / 2
    assert LabelCosine().score(fixed(LOGITS, [1, 1]), one())[0] == pytest.approx(expected, rel=1e-6)


def test_kl_by_hand():
    estimator = Divergence()
    estimator.prepare = lambda target: None
    estimator._ours = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double().log()
    expected = -(
        0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25) + 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    )
    assert estimator.score(fixed(LOGITS, [0, 0]), one())[0] == pytest.approx(expected / 2, rel=1e-6)


def test_absent_choices_change_nothing():
    padded = torch.cat([LOGITS, torch.full((2, 1), -torch.inf)], dim=1)
    for estimator in (ErrorNorm(), LabelCosine()):
        plain, wide = (estimator.score(fixed(logits, [0, 1]), one())[0] for logits in (LOGITS, padded))
        assert plain == pytest.approx(wide, rel=1e-9)
    estimator = Divergence()
    estimator.prepare = lambda target: None
    estimator._ours = padded.double().log_softmax(dim=1)
    assert estimator.score(fixed(padded, [0, 1]), one())[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("arch", ["bert", "t5", "bart", "gpt2", "qwen2"])
@pytest.mark.parametrize("name", METHODS.names())
def test_loss_is_minus_the_backbones_own_mean_loss_with_the_module_on(name, arch, world, toys):
    backbone, method, modules = world(arch, name)
    target = toys.target(backbone, modules, name)
    expected = []
    for module in modules:
        with backbone.use(method, module.tensors(dtype=torch.float32)):
            expected.append(-float(backbone.loss(target.encoded).mean()))
    np.testing.assert_allclose(PredictionLoss().score(target, modules), expected, rtol=1e-5)


def test_kl_is_zero_for_the_targets_own_tune_and_negative_for_others(world, toys):
    backbone, method, modules = world()
    target = toys.target(backbone, modules)
    own = toys.module(backbone, method, target.scratch_tune().tensors, "own", start=target.start)
    scores = Divergence().score(target, [own, *modules])
    assert scores[0] == pytest.approx(0, abs=1e-6)
    assert (scores[1:] < 0).all()


@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_a_module_trained_on_the_target_beats_one_trained_on_its_opposite(arch, toys):
    backbone, method, task = tiny.tiny_backbone(arch), LoRA(), toys.task(16)
    start = method.draw(backbone.model)
    modules = []
    for kind in ("right", "wrong"):
        rows = [{**row, "label": row["label"] if kind == "right" else 1 - row["label"]} for row in task.train]
        settings = TuneSettings(steps=40)
        tensors = tune(backbone, method, backbone.encode(rows), tensors=start, settings=settings).tensors
        modules.append(toys.module(backbone, method, tensors, kind, start=start))
    target = Target.for_modules(task, backbone, modules)
    for estimator in (PredictionLoss(), ErrorNorm(), LabelCosine(), Divergence(steps=60)):
        scores = estimator.score(target, modules)
        assert scores[0] > scores[1], estimator.name


def test_outputs_are_computed_once_for_all_estimators(world, toys, monkeypatch):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    ErrorNorm().score(target, modules)
    monkeypatch.setattr(backbone, "forward", lambda **batch: pytest.fail("a module was run again"))
    LabelCosine().score(target, modules)
    PredictionLoss().score(target, modules)


def test_performance_is_accuracy_on_the_half_that_was_not_tuned_on(world, toys):
    backbone, method, modules = world()
    target = toys.target(backbone, modules, n=12)
    scores = ShortTunePerformance().score(target, modules)
    for module, score in zip(modules, scores, strict=True):
        settings = TuneSettings(steps=10, batch_size=16, seed=target.seed)
        tuned = tune(backbone, method, target.halves[0], tensors=module.tensors(dtype=torch.float32), settings=settings)
        with backbone.use(method, tuned.tensors):
            found = measure(backbone, target.halves[1])
        assert 0 < found.accuracy - score < 1 / (2 * 6)
        assert score == pytest.approx(found.accuracy - found.loss / (1 + found.loss) / 12)


def test_performance_ties_are_broken_by_loss_and_never_the_other_way():
    estimator = ShortTunePerformance()
    results = {"a": (0.5, 0.1), "b": (0.5, 9.0), "c": (0.75, 1e6)}

    def tune_from(module, steps):
        accuracy, loss = results[module.id]
        return SimpleNamespace(held_out=SimpleNamespace(accuracy=accuracy, loss=loss))

    target = SimpleNamespace(halves=([], [None] * 4), tune_from=tune_from)
    a, b, c = estimator.score(target, [SimpleNamespace(id=name) for name in "abc"])
    assert c > a > b


def test_one_short_tune_serves_performance_and_drift(world, toys, monkeypatch):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    ShortTunePerformance().score(target, modules)
    monkeypatch.setattr("transfer.similarity.target.tune", lambda *a, **k: pytest.fail("tuned again"))
    ESTIMATORS.get("parameters:euclidean")().score(target, modules)


@pytest.mark.parametrize("name", ["prediction:el2n", "prediction:label-cosine", "prediction:kl"])
def test_a_generation_task_has_no_choices_to_compare(name, world, toys):
    backbone, _, modules = world("t5")
    rows = Dataset.from_list([{"input": f"text {n}", "output": f"answer {n}"} for n in range(4)])
    task = toys.task(kind="generation", train=rows, dev=rows, test=rows)
    target = Target.for_modules(task, backbone, modules)
    with pytest.raises(ConfigError, match="has none to choose from"):
        ESTIMATORS.get(name)().score(target, modules)
    losses = PredictionLoss().score(target, modules)
    assert np.isfinite(losses).all()
    assert (CalibratedLoss().score(target, modules) == losses).all()
    assert np.isfinite(ESTIMATORS.get("gradient")().score(target, modules)).all()


def test_a_sure_module_that_is_mostly_right_comes_before_one_that_says_nothing(world, toys, monkeypatch):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    right = torch.tensor([row.label for row in target.sample])
    sign = torch.where(torch.arange(len(right)) % 4 == 0, -1.0, 1.0)  # three of four are right
    sure = 10 * sign[:, None] * torch.nn.functional.one_hot(right, 2)
    nothing = torch.zeros(len(right), 2)
    losses = [torch.nn.functional.cross_entropy(scores, right, reduction="none") for scores in (sure, nothing)]
    monkeypatch.setattr(target, "losses", lambda _: losses)
    monkeypatch.setattr(target, "outputs", lambda _: list(zip((sure, nothing), losses, strict=True)))
    assert np.argmax(PredictionLoss().values(target, modules[:2])) == 1
    found = CalibratedLoss().values(target, modules[:2])
    assert np.argmax(found) == 0
    assert found[1] == pytest.approx(-np.log(2))
