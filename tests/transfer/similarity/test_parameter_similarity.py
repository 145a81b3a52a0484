"""The parameters family: directions from the start, and drift under a short tune."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from transfer.deltas import METHODS, LoRA
from transfer.errors import SourceError
from transfer.similarity import Target
from transfer.similarity.parameters import ParameterCosine, ParameterDrift
from transfer.training import TuneSettings, tune


@pytest.mark.parametrize("name", METHODS.names())
def test_cosine_with_the_targets_own_tune_is_one_and_with_its_opposite_minus_one(name, world, toys):
    backbone, method, modules = world("bert", name)
    target = toys.target(backbone, modules, name)
    start, tuned = target.start, target.scratch_tune().tensors
    made = [
        toys.module(
            backbone, method, {n: start[n] + by * (tuned[n] - start[n]) for n in start}, f"s{number}", start=start
        )
        for number, by in enumerate((1.0, 0.5, -1.0))
    ]
    scores = ParameterCosine().score(target, made)
    # A tensor whose gradient is zero does not move and counts as 0: the cosine of the others is 1.
    still = np.mean([bool(torch.equal(tuned[n], start[n])) for n in start])
    np.testing.assert_allclose(scores, [1 - still, 1 - still, still - 1], atol=2e-3)


def test_cosine_is_the_mean_over_tensors_of_the_cosine_of_differences(world, toys):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    tuned = target.scratch_tune().tensors
    for module, score in zip(modules, ParameterCosine().score(target, modules), strict=True):
        cosines = []
        for name, theirs in module.tensors(dtype=torch.float32).items():
            a = (tuned[name] - target.start[name]).flatten().numpy().astype(np.float64)
            b = (theirs - module.start()[name]).flatten().numpy().astype(np.float64)
            cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert score == pytest.approx(np.mean(cosines), rel=1e-6)


def test_cosine_uses_the_tune_that_the_guard_reads(world, toys):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    ParameterCosine().score(target, modules)
    assert list(target._scratch) == [TuneSettings(steps=20, batch_size=16, seed=0)]
    assert target.scratch_tune() is target.scratch_tune(20, 16)


def test_a_module_of_another_start_is_named(world, toys, caplog):
    backbone, method, modules = world()
    target = toys.target(backbone, modules)
    ParameterCosine().score(target, modules)
    assert not caplog.messages
    start = toys.moved(target.start, 0.1, 99)
    odd = toys.module(backbone, method, toys.moved(start, 0.1, 3), "odd", start=start)
    ParameterCosine().score(target, [*modules, odd])
    (said,) = caplog.messages
    assert said.startswith("1 of 4 modules were trained from another start than the target is tuned from")
    assert odd.id in said


def test_cosine_refuses_other_sizes_by_name(toys):
    backbone = tiny.tiny_backbone("bert")
    modules = [*toys.modules(backbone, LoRA()), *toys.modules(backbone, LoRA(rank=3), n=1)]
    with pytest.raises(SourceError, match=f"module '{modules[-1].id}' cannot be compared tensor by tensor"):
        ParameterCosine().score(toys.target(backbone, modules), modules)


def test_euclidean_is_minus_the_mean_norm_of_the_drift(world, toys):
    backbone, method, modules = world()
    target = toys.target(backbone, modules)
    score = ParameterDrift().score(target, modules[:1])[0]
    before = dict(modules[0].tensors(dtype=torch.float32))
    settings = TuneSettings(steps=10, batch_size=16, seed=0)
    after = tune(backbone, method, target.halves[0], tensors=before, settings=settings).tensors
    assert score == pytest.approx(-np.mean([float((after[n] - before[n]).norm()) for n in before]), rel=1e-5)


def test_a_module_tuned_on_the_target_drifts_less_than_one_far_from_it(toys):
    """AdamW's steps have about the same length whatever the gradient's, until it falls to nothing: tuned to the end."""
    backbone, method = tiny.tiny_backbone("bert"), LoRA()
    task = toys.task(16)
    start = method.draw(backbone.model)
    encoded = backbone.encode(task.train)
    fitted = tune(backbone, method, encoded, tensors=start, settings=TuneSettings(steps=150)).tensors
    flipped = [{**row, "label": 1 - row["label"]} for row in task.train]
    wrong = tune(backbone, method, backbone.encode(flipped), tensors=start, settings=TuneSettings(steps=150)).tensors
    modules = [
        toys.module(backbone, method, t, name, start=start) for name, t in (("fitted", fitted), ("wrong", wrong))
    ]
    scores = ParameterDrift().score(Target.for_modules(task, backbone, modules), modules)
    assert scores[0] > scores[1]
