"""merge and its linear rule: by hand, and what is refused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from transfer.ensembling import merge
from transfer.ensembling.compatible import largest_group
from transfer.errors import ConfigError, DeltaError, UnknownNameError
from zoo import Module, Zoo
from zoo.errors import UnknownModuleError


def close(left, right, tolerance=2e-5):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


def equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_linear_by_hand(makes):
    modules, start = makes.modules(3), makes.tensors(seed=0)
    weights = dict(zip((module.id for module in modules), (0.5, -1.5, 3.0), strict=True))
    expected = {
        name: value + sum(weights[module.id] * (module.tensors()[name] - value) for module in modules)
        for name, value in start.items()
    }
    close(merge(modules, weights).tensors, expected)


def test_linear_weights_that_sum_to_1_are_a_plain_average_of_tensors(makes):
    modules = makes.modules(2, start=None)
    one, two = (dict(module.tensors()) for module in modules)
    merged = merge(modules, {modules[0].id: 0.25, modules[1].id: 0.75}, "linear")
    close(merged.tensors, {name: 0.25 * one[name] + 0.75 * two[name] for name in one})


def test_linear_with_all_weights_0_is_the_shared_start(makes):
    modules = makes.modules(2)
    equal(merge(modules, {module.id: 0.0 for module in modules}).tensors, makes.tensors(seed=0))


def test_linear_holds_one_module_at_a_time(makes, monkeypatch):
    alive: list[weakref.ref] = []
    read = Module.tensors

    def tensors(self, dtype=None):
        gc.collect()
        assert not any(other() for other in alive), "the module before is still in memory"
        found = {name: value.clone() for name, value in read(self, dtype).items()}
        alive.extend(weakref.ref(value) for value in found.values())
        return found

    modules = makes.modules(5)
    monkeypatch.setattr(Module, "tensors", tensors)
    merge(modules, {module.id: 0.2 for module in modules})
    assert len(alive) >= 5 * 4


def test_linear_reads_half_precision_and_computes_in_full(makes):
    half = {name: value.half() for name, value in makes.tensors(seed=5).items()}
    one, two = makes.module("one", 0, tensors=half), makes.module("two", 6)
    merged = merge([one, two], {one.id: 1 / 3, two.id: 2 / 3})
    close(merged.tensors, {name: value.float() / 3 + 2 * two.tensors()[name] / 3 for name, value in half.items()}, 1e-6)


def test_linear_leaves_modules_as_they_were(makes):
    module = makes.module("one", 3)
    merged = merge([module], {module.id: 1.0})
    merged.tensors["a.lora_A"].zero_()
    equal(dict(module.tensors()), makes.tensors(seed=3))


def test_linear_equals_peft_where_the_two_mean_the_same(makes):
    """PEFT's linear puts sqrt(weight * scale) on A and on B: the same for weight 1 and alpha = rank only."""
    peft = pytest.importorskip("peft")
    model = torch.nn.Sequential()
    model.add_module("a", torch.nn.Linear(4, 3))
    model.add_module("b", torch.nn.Linear(4, 3))
    tensors = makes.tensors(seed=4)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["a", "b"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config, adapter_name="one")
    own = {f"base_model.model.{name}.weight": value for name, value in tensors.items()}
    peft.set_peft_model_state_dict(wrapped, own, "one")
    wrapped.add_weighted_adapter(["one"], [1.0], "merged", combination_type="linear")
    theirs = peft.get_peft_model_state_dict(wrapped, adapter_name="merged")
    module = makes.module("one", 4, settings={"alpha": 2})
    ours = merge([module], {module.id: 1.0})
    close({f"base_model.model.{name}.weight": value for name, value in ours.tensors.items()}, dict(theirs))


@pytest.mark.parametrize("weights", [(0.7, 0.7), (1.5, -0.5), (0.2, 0.2)])
def test_linear_without_a_start_refuses_other_weights_by_name(weights, makes):
    known, unknown = makes.module("known", 1), makes.module("unknown", 2, start=None)
    with pytest.raises(DeltaError, match=f"start of '{unknown.id}' is not known"):
        merge([known, unknown], {known.id: weights[0], unknown.id: weights[1]}, "linear")


@pytest.mark.parametrize("weights", [(0.7, 0.7), (1.5, -0.5), (0.2, 0.2)])
def test_linear_with_different_starts_refuses_other_weights_by_name(weights, makes):
    one, other = makes.module("one", 1), makes.module("other", 2, start=9)
    with pytest.raises(DeltaError, match=f"'{one.id}' and '{other.id}' were trained from different starts"):
        merge([one, other], {one.id: weights[0], other.id: weights[1]}, "linear")


def test_linear_averages_modules_of_different_starts_and_says_so(makes, caplog):
    one, other = makes.module("one", 1), makes.module("other", 2, start=9)
    lines = []
    merged = merge([one, other], {one.id: 0.25, other.id: 0.75}, "linear", say=lines.append)
    close(merged.tensors, {n: 0.25 * t + 0.75 * other.tensors()[n] for n, t in one.tensors().items()})
    assert len(lines) == 1
    assert lines[0].startswith("the merged modules were trained from 2 different starts")
    assert not caplog.text
    merge([one, other], {one.id: 0.25, other.id: 0.75}, "linear")
    assert "2 different starts" in caplog.text
    merge([one, other], {one.id: 1.0, other.id: 0.0}, "linear", say=lines.append)  # what weighs nothing is not merged
    merge(makes.modules(3), {module.id: 1 / 3 for module in makes.modules(3)}, say=lines.append)
    assert len(lines) == 1


def test_the_largest_group_is_of_equal_settings_whatever_the_starts(makes):
    alike = [makes.module("a", 1), makes.module("b", 2, start=9), makes.module("c", 3, start=None)]
    odd = makes.module("odd", 4, settings={"alpha": 8})
    assert largest_group([odd, *alike]) == (alike, [odd])


def test_the_backbone_s_own_modules_go_before_a_larger_group(makes):
    others = [makes.module(f"other-{seed}", seed, fingerprint="1" * 64) for seed in (1, 2, 3)]
    own = [makes.module("own", 4)]
    assert largest_group([*others, *own], "0" * 64) == (own, others)
    assert largest_group([*others, *own], "2" * 64) == (others, own)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"settings": {"alpha": 8}}, "differ in alpha"),
        ({"settings": {"alphas": {"a": 8}}}, "differ in alphas"),
        ({"fingerprint": "1" * 64}, "differ in backbone"),
        ({"method": "adapter"}, "differ in method"),
    ],
)
def test_linear_names_the_modules_that_do_not_go_together(changes, names, makes):
    one, other = makes.module("one", 1), makes.module("other", 2, **changes)
    with pytest.raises(DeltaError, match=names) as error:
        merge([one, other], {one.id: 0.5, other.id: 0.5}, "linear")
    assert one.id in str(error.value)
    assert other.id in str(error.value)


def test_linear_refuses_other_ranks_and_places(makes):
    one = makes.module("one", 1)
    wide = {"a.lora_A": torch.randn(3, 4), "a.lora_B": torch.randn(3, 3), "b.lora_A": torch.randn(3, 4)}
    wide["b.lora_B"] = torch.randn(3, 3)
    rank = makes.module("rank", 2, tensors=wide, start=None, settings={"rank": 3})
    with pytest.raises(DeltaError, match="differ in rank"):
        merge([one, rank], {one.id: 0.5, rank.id: 0.5}, "linear")
    few = {name: value for name, value in makes.tensors(seed=2).items() if name.startswith("a.")}
    place = makes.module("place", 2, tensors=few, start=None, settings={"places": ["a"]})
    with pytest.raises(DeltaError, match="differ in places"):
        merge([one, place], {one.id: 0.5, place.id: 0.5}, "linear")


def test_settings_of_training_and_a_number_s_type_do_not_matter(makes):
    one = makes.module("one", 1)
    other = makes.module("other", 2, settings={"dropout": 0.1, "alpha": 4.0, "where": ["attn.q"]})
    assert merge([one, other], {one.id: 0.5, other.id: 0.5}, "linear").tensors


def test_weights_that_cannot_be(makes):
    (module,) = makes.modules(1)
    with pytest.raises(ConfigError, match="no weights"):
        merge([module], {})
    with pytest.raises(ConfigError, match="not a finite number"):
        merge([module], {module.id: float("nan")})
    with pytest.raises(DeltaError, match="'x-lora-00000000' has a weight"):
        merge([module], {"x-lora-00000000": 1.0})
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        merge([module], {module.id: 1.0}, "liner")


def test_a_zoo_says_what_it_lacks(tmp_path):
    with pytest.raises(UnknownModuleError):
        merge(Zoo(tmp_path), {"x-lora-00000000": 1.0})
