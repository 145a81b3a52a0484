"""What holds for every estimator, on every method and every kind of backbone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from datasets import concatenate_datasets

from transfer.deltas import METHODS
from transfer.errors import SourceError
from transfer.similarity import ESTIMATORS, Target, score
from transfer.similarity.estimator import Estimator

FAMILIES = ("embedding", "gradient", "parameters", "prediction", "neighbours")


# To an estimator they are adapters or LoRAs with other tensors: they are asked about where tensors are looked at.
ALIKE = ("parallel-adapter", "low-rank-adapter", "compacter", "sora")
CASES = [
    (name, method, arch)  # a new estimator or method is covered the day it is added
    for name in ESTIMATORS.names()
    for method in METHODS.names()
    for arch in ("bert", "t5", "gpt2")
    if method not in ALIKE or (arch == "bert" and name.startswith(("gradient", "parameters:cosine")))
]


@pytest.mark.parametrize(("name", "method", "arch"), CASES)
def test_scores_are_finite_repeatable_and_blind_to_the_order_of_modules(name, method, arch, world, toys):
    backbone, _, modules = world(arch, method)
    before = backbone.choice_logits(backbone.encode(toys.task().train))
    first = ESTIMATORS.get(name)().score(toys.target(backbone, modules, method), modules)
    turned = ESTIMATORS.get(name)().score(toys.target(backbone, modules, method), modules[::-1])
    assert first.shape == (3,)
    assert first.dtype == np.float64
    assert np.isfinite(first).all()
    assert (first == turned[::-1]).all()
    assert backbone.delta is None
    assert torch.equal(backbone.choice_logits(backbone.encode(toys.task().train)), before)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS.names() if name != "neighbours:votes"])
def test_a_module_has_the_same_score_in_any_company(name, world, toys):
    backbone, _, modules = world()
    target = toys.target(backbone, modules)
    together = ESTIMATORS.get(name)().score(target, modules)
    alone = [float(ESTIMATORS.get(name)().score(target, [module])[0]) for module in modules]
    assert alone == pytest.approx(together.tolist(), rel=1e-5, abs=1e-7)


# The evidence of LogME is a density of all labels together: to it a repeated example is one less to explain.
@pytest.mark.parametrize("name", [name for name in ESTIMATORS.names() if name != "prediction:logme"])
def test_scores_do_not_grow_with_the_number_of_examples(name, world, toys):
    """Twice the same examples give the same scores: they are means, not sums."""
    backbone, _, modules = world()
    once = toys.task(8)
    doubled = toys.task(train=concatenate_datasets([once.train, once.train]))
    found = [
        ESTIMATORS.get(name)().score(Target.for_modules(task, backbone, modules), modules) for task in (once, doubled)
    ]
    if name == "embedding:mmd":  # the target's similarity to itself rises with a twin for each, for all modules alike
        found = [scores - scores.mean() for scores in found]
    # Short tunes see their examples in another order, and a fitted factor has a prior.
    loose = name in ("parameters:euclidean", "prediction:performance", "prediction:calibrated")
    assert np.abs(found[1] - found[0]).max() <= (0.5 if loose else 0.02) * np.abs(found[0]).max() + 1e-6


@pytest.mark.parametrize("arch", ["bert", "t5"])
@pytest.mark.parametrize("name", [name for name in ESTIMATORS.names() if ESTIMATORS.get(name).per_block])
def test_scores_and_scores_per_block_come_from_one_run(name, arch, world, toys, monkeypatch):
    backbone, _, modules = world(arch)
    passes, forward = [], backbone.forward
    counting = functools.wraps(forward)(lambda **batch: passes.append(1) or forward(**batch))
    monkeypatch.setattr(backbone, "forward", counting)
    plain = score(toys.task(), modules, backbone, estimator=name)
    n_passes = len(passes)
    found = score(toys.task(), modules, backbone, estimator=name, per_block=True)
    assert len(passes) == 2 * n_passes > 0
    assert found.blocks.shape == (3, 2 if arch == "bert" else 4)
    assert found.values == pytest.approx(plain.values, rel=1e-12)
    turned = score(toys.task(), modules[::-1], backbone, estimator=name, per_block=True)
    assert (turned.blocks == found.blocks[::-1]).all()
    assert (turned.values == found.values[::-1]).all()


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_every_estimator_knows_its_own_name(name):
    assert ESTIMATORS.get(name).name == name
    assert isinstance(ESTIMATORS.get(name)(), Estimator)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_alone_means_its_default_variant(family):
    assert ESTIMATORS.resolve(family).startswith(f"{family}:")
    assert ESTIMATORS.resolve("gradient") == "gradient:first-order"


def test_the_five_families_are_there_with_all_variants():
    assert {name.split(":")[0] for name in ESTIMATORS.names()} == set(FAMILIES)
    assert len(ESTIMATORS.names()) == 18


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_nothing_to_score_is_an_error(name, world, toys):
    backbone, _, modules = world()
    with pytest.raises(SourceError, match="no modules to score"):
        ESTIMATORS.get(name)().score(toys.target(backbone, modules), [])


NEEDS_SIGNATURE = ("embedding:cosine", "embedding:mmd", "embedding:frechet", "gradient:alignment", "neighbours:votes")


@pytest.mark.parametrize("name", NEEDS_SIGNATURE)
def test_a_module_without_signature_is_named_with_the_remedy(name, world, toys):
    backbone, method, modules = world()
    bare = toys.module(backbone, method, modules[0].tensors(), "naked", start=modules[0].start())
    with pytest.raises(SourceError, match=bare.id) as caught:
        score(toys.task(), [*modules, bare], backbone, estimator=name)
    assert f"--exclude {bare.id}" in str(caught.value)
    assert f"--backbone {bare.card.backbone} --signature naked" in str(caught.value)
    assert "1 of 4" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS.names() if name not in NEEDS_SIGNATURE])
def test_the_others_need_no_signature(name, world, toys):
    backbone, method, modules = world()
    bare = toys.module(backbone, method, modules[0].tensors(), "naked", start=modules[0].start())
    assert len(score(toys.task(), [bare], backbone, estimator=name)) == 1


@pytest.mark.parametrize(("name", "method"), [("parameters:cosine", "lora"), ("gradient:first-order", "adapter")])
def test_a_module_without_start_is_named_with_the_remedy(name, method, world, toys):
    backbone, how, modules = world("bert", method)
    stray = toys.module(backbone, how, modules[0].tensors(), "stray")
    with pytest.raises(SourceError, match=f"start of module '{stray.id}' is not known"):
        score(toys.task(), [*modules, stray], backbone, method, name)


def test_first_order_scores_a_lora_whose_start_is_not_known(world, toys):
    backbone, how, modules = world()
    stray = toys.module(backbone, how, modules[0].tensors(), "stray")
    scores = score(toys.task(), [*modules, stray], backbone).values
    assert scores[0] == pytest.approx(scores[3], rel=1e-6)
