"""Rules on products B A: against the products in full, against PEFT, and across ranks, scales and places."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfer.deltas.delta import Delta
from transfer.ensembling import MERGES, merge, svd
from transfer.ensembling.factoring import Cut, from_factors, from_matrix
from transfer.errors import ConfigError, DeltaError
from zoo import Module, Zoo

weights_ = st.floats(-4, 4).map(lambda value: round(value, 3))
few = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def products(delta):
    """place -> scale * B A, in full."""
    method = delta.method
    return {
        name.removesuffix(".lora_A"): method.scale(name.removesuffix(".lora_A"))
        * delta.tensors[name.replace("lora_A", "lora_B")].double()
        @ tensor.double()
        for name, tensor in delta.tensors.items()
        if name.endswith("lora_A")
    }


def full_sum(modules, weights):
    total = {}
    for module in modules:
        for place, change in products(Delta.from_module(module)).items():
            total[place] = total.get(place, 0) + weights[module.id] * change
    return total


def close(left, right, tolerance=1e-5):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name].double(), right[name].double(), rtol=tolerance, atol=tolerance)


def odd(makes, task, seed, rank, alpha, places=("a", "b"), start=None, size=(4, 3), **more):
    """A LoRA of its own rank, scale and places, with an unknown start unless one is given."""
    generator = torch.Generator().manual_seed(seed)
    n_in, n_out = size
    tensors = {}
    for place in places:
        tensors[f"{place}.lora_A"] = torch.randn(rank, n_in, generator=generator)
        tensors[f"{place}.lora_B"] = torch.randn(n_out, rank, generator=generator)
    chosen = {"rank": rank, "alpha": alpha, "places": list(places), **more}
    return makes.module(task, 0, tensors=tensors, start=start, settings=chosen)


@pytest.fixture
def strangers(makes):
    """Rank 1 and 3, scales 2 and sqrt(3) (rsLoRA's alpha / sqrt(rank)) and 4, one of them on one place alone."""
    return [
        odd(makes, "one", 1, 1, 2),
        odd(makes, "two", 2, 3, 3 * math.sqrt(3)),
        odd(makes, "three", 3, 2, 8, places=("b",)),
    ]


@few
@given(values=st.tuples(weights_, weights_, weights_))
def test_concat_and_svd_of_any_ranks_scales_and_places_are_the_sum_of_products(values, strangers):
    weights = {module.id: value for module, value in zip(strangers, values, strict=True)}
    if not any(values):
        return
    expected = full_sum(strangers, weights)
    for how, options in (("concat", {}), ("svd", {"rank": 4}), ("svd", {"energy": 1.0})):
        found = products(merge(strangers, weights, how, **options))
        close(found, {place: expected[place] for place in found}, 1e-4)
        assert all(not expected[place].any() for place in expected.keys() - found.keys())


def test_concat_adds_ranks_place_by_place_and_svd_takes_the_largest(strangers, tmp_path):
    weights = {module.id: 0.5 for module in strangers}
    joined, cut = merge(strangers, weights, "concat"), merge(strangers, weights, "svd")
    ranks = {place: len(joined.tensors[f"{place}.lora_A"]) for place in ("a", "b")}
    assert ranks == {"a": 4, "b": 6}
    assert {place: joined.method.ranks.get(place, joined.method.rank) for place in ranks} == ranks
    assert {len(cut.tensors[f"{place}.lora_A"]) for place in ranks} == {3}


def test_svd_is_the_closest_of_its_rank_and_energy_says_what_is_lost(makes):
    modules = [odd(makes, f"t{n}", n, 3, 6, size=(24, 20)) for n in range(5)]
    weights = {module.id: 0.3 for module in modules}
    expected = full_sum(modules, weights)
    for rank in (1, 4):
        found = products(merge(modules, weights, "svd", rank=rank))
        for place, change in expected.items():
            u, s, vh = torch.linalg.svd(change)
            close({place: found[place]}, {place: u[:, :rank] * s[:rank] @ vh[:rank]}, 1e-4)
    kept = merge(modules, weights, "svd", energy=0.8)
    for place, change in expected.items():
        squares = torch.linalg.svdvals(change) ** 2
        rank = len(kept.tensors[f"{place}.lora_A"])
        assert float(squares[:rank].sum() / squares.sum()) >= 0.8
        assert rank == 1 or float(squares[: rank - 1].sum() / squares.sum()) < 0.8


@pytest.mark.parametrize("size", [(4, 40), (40, 4), (12, 12)])
def test_both_ways_of_factoring_agree_with_torch(size):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, size[1], generator=generator), torch.randn(size[0], 3, generator=generator)
    u, s, vh = torch.linalg.svd((b @ a).double(), full_matrices=False)
    for cut in (Cut(2), Cut(3), Cut(None, 0.9)):
        rank = cut.of((s**2).numpy())
        expected = u[:, :rank] * s[:rank] @ vh[:rank]
        for found_a, found_b in (from_factors(a, b, cut), from_matrix(b @ a, cut)):
            close({"x": found_b @ found_a}, {"x": expected}, 1e-4)
    near, far = from_matrix(b @ a, Cut(2))
    torch.testing.assert_close((near**2).sum(dim=1), (far**2).sum(dim=0), rtol=1e-4, atol=1e-5)  # shared alike


def test_a_matrix_of_zeros_is_factored():
    a, b = from_matrix(torch.zeros(4, 5), Cut(2))
    assert a.shape == (2, 5)
    assert not (b @ a).any()


@pytest.mark.parametrize(("ours", "kind"), [("concat", "cat"), ("svd", "svd")])
def test_equal_to_peft_where_peft_is_right(ours, kind, makes):
    """Same scale, no rsLoRA, weights above 0: PEFT's cat and svd are the sum of products there."""
    peft = pytest.importorskip("peft")
    modules = [odd(makes, "x", 1, 2, 4), odd(makes, "y", 2, 3, 6)]
    model = torch.nn.Sequential()
    for name in ("a", "b"):
        model.add_module(name, torch.nn.Linear(4, 3))
    wrapped = None
    for name, module, rank in (("x", modules[0], 2), ("y", modules[1], 3)):
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["a", "b"], init_lora_weights=False)
        if wrapped is None:
            wrapped = peft.get_peft_model(model, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
        own = {f"base_model.model.{key}.weight": value for key, value in module.tensors().items()}
        peft.set_peft_model_state_dict(wrapped, own, name)
    extra = {"svd_rank": 3} if kind == "svd" else {}
    wrapped.add_weighted_adapter(["x", "y"], [0.7, 0.2], "merged", combination_type=kind, **extra)
    theirs = {name: getattr(wrapped.base_model.model, name).get_delta_weight("merged") for name in ("a", "b")}
    weights = {modules[0].id: 0.7, modules[1].id: 0.2}
    close(products(merge(modules, weights, ours, **({"rank": 3} if ours == "svd" else {}))), theirs)


def test_knots_without_trimming_and_conflict_is_the_sum_in_full(makes):
    """Changes that never disagree in sign: each value is the weighted mean of those that have one there."""
    one = odd(makes, "one", 1, 2, 4, size=(6, 5))
    flipped = {n: (-t if n.endswith("B") else t) for n, t in one.tensors().items()}
    double = {n: (2 * t if n.endswith("B") else t) for n, t in one.tensors().items()}
    own = dict(one.card.settings)
    twice = makes.module("twice", 0, tensors=double, start=None, settings=own)
    against = makes.module("against", 0, tensors=flipped, start=None, settings=own)
    change = full_sum([one], {one.id: 1.0})
    mean = products(merge([one, twice], {one.id: 0.5, twice.id: 0.5}, "knots", density=1.0))
    close(mean, {place: 1.5 * value for place, value in change.items()}, 1e-4)
    won = products(merge([twice, against], {twice.id: 0.5, against.id: 0.5}, "knots", density=1.0))
    close(won, {place: 2 * value for place, value in change.items()}, 1e-4)  # the heavier sign alone, at weight 1


def test_in_knots_a_place_that_a_module_lacks_is_one_that_it_does_not_change(makes):
    both, alone = odd(makes, "one", 1, 2, 4), odd(makes, "two", 2, 2, 4, places=("a",))
    still = {name: t.clone() for name, t in both.tensors().items()} | dict(alone.tensors())
    still["b.lora_B"] = torch.zeros_like(still["b.lora_B"])
    there = makes.module("two", 0, tensors=still, start=None, settings=dict(both.card.settings))
    found, expected = (
        products(merge([both, other], {both.id: 0.5, other.id: 0.5}, "knots", density=1.0)) for other in (alone, there)
    )
    assert float(expected["b"].abs().max()) > 0.1
    close(found, expected, 1e-4)


def test_regmean_answers_as_each_module_on_its_own_inputs(makes):
    """Inputs of the two modules in different directions: both are answered exactly, which no average does."""
    one, two = (odd(makes, name, seed, 3, 3, size=(6, 5)) for name, seed in (("one", 1), ("two", 2)))
    x = torch.eye(6)
    grams = {
        one.id: dict.fromkeys(("a", "b"), x[:, :3] @ x[:, :3].T),
        two.id: dict.fromkeys(("a", "b"), x[:, 3:] @ x[:, 3:].T),
    }
    found = products(merge([one, two], {one.id: 0.5, two.id: 0.5}, "regmean", grams=grams, shrink=1.0, rank=5))
    for place in ("a", "b"):
        first, second = (products(Delta.from_module(module))[place] for module in (one, two))
        torch.testing.assert_close(found[place][:, :3], first[:, :3], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found[place][:, 3:], second[:, 3:], rtol=1e-3, atol=1e-3)
    with pytest.raises(DeltaError, match=f"'regmean' needs the inputs of module '{one.id}' at a"):
        merge([one], {one.id: 1.0}, "regmean")


def test_regmean_weighs_a_module_that_has_no_change_at_a_place(makes):
    one, two = odd(makes, "one", 1, 2, 2), odd(makes, "two", 2, 2, 2, places=("a",))
    grams = {module.id: {"a": torch.eye(4), "b": torch.eye(4)} for module in (one, two)}
    for share in (0.5, 0.01):
        weights = {one.id: share, two.id: 1 - share}
        close(products(merge([one, two], weights, "regmean", grams=grams, rank=3)), full_sum([one, two], weights), 1e-4)


def test_a_place_without_change_can_still_be_trained(makes):
    module = odd(makes, "one", 1, 2, 2)
    idle = {name: torch.zeros_like(t) if name == "b.lora_B" else t for name, t in module.tensors().items()}
    for how in ("svd", "concat", "knots"):
        still = makes.module("idle", 0, tensors=idle, start=None, settings=dict(module.card.settings))
        found = merge([still], {still.id: 1.0}, how).tensors
        assert not found["b.lora_B"].any()
        assert found["b.lora_A"].norm(dim=1).min() > 0.1
    for factors in (from_matrix(torch.outer(torch.ones(3), torch.ones(4)), Cut(3)), from_factors(*_one(), Cut(2))):
        torch.testing.assert_close(factors[1] @ factors[0], torch.ones(3, 4), rtol=1e-5, atol=1e-5)
        assert factors[0].norm(dim=1).min() > 0.1


def _one():
    """A (2, 4) and B (3, 2) whose product is all ones, in one of two directions."""
    return torch.stack([torch.ones(4), torch.zeros(4)]), torch.stack([torch.ones(3), torch.ones(3)], dim=1)


def test_products_refuse_what_they_cannot_sum_by_name(makes):
    one, wide = odd(makes, "one", 1, 2, 4), odd(makes, "wide", 2, 2, 4, size=(5, 3))
    other = makes.module("other", 3, fingerprint="1" * 64)
    for second, names in ((wide, "the size of a"), (other, "differ in backbone")):
        with pytest.raises(DeltaError, match=names) as error:
            merge([one, second], {one.id: 0.5, second.id: 0.5}, "svd")
        assert one.id in str(error.value)
        assert second.id in str(error.value)


@pytest.mark.parametrize(
    ("how", "options", "names"),
    [
        ("svd", {"rank": 0}, "rank must be at least 1"),
        ("svd", {"energy": 1.5}, "energy must be above 0"),
        ("knots", {"density": 0.0}, "density must be above 0"),
        ("ties", {"density": 0.0}, "density must be above 0"),
        ("dare", {"density": 1.5}, "density must be above 0"),
        ("regmean", {"shrink": 2.0}, "shrink must be in"),
        ("task-arithmetic", {"scale": math.inf}, "scale must be a finite number"),
    ],
)
def test_options_outside_their_range(how, options, names, makes):
    (module,) = makes.modules(1)
    with pytest.raises(ConfigError, match=names):
        merge([module], {module.id: 1.0}, how, **options)


def test_auto_averages_modules_of_one_start_and_sums_the_products_of_strangers_and_says_why(makes, strangers):
    lines: list[str] = []
    alike = makes.modules(2)
    merged = merge(alike, {module.id: 0.5 for module in alike}, say=lines.append)
    torch.testing.assert_close(merged.tensors, merge(alike, {m.id: 0.5 for m in alike}, "linear").tensors)
    assert not lines
    weights = {module.id: 1 / 3 for module in strangers}
    found = merge(strangers, weights, say=lines.append)
    close(products(found), products(merge(strangers, weights, "svd")))
    assert len(lines) == 1
    assert lines[0].startswith("merged by svd, the sum of products B A cut to a rank: ")
    assert "differ in alpha" in lines[0]
    apart = [makes.module("x", 1), makes.module("y", 2, start=None)]
    merge(apart, {module.id: 0.5 for module in apart}, say=lines.append)
    assert f"the start of 1 of 2 modules is not known ({apart[1].id} for example)" in lines[1]


def test_auto_takes_one_module_of_unknown_start_at_any_weight(makes):
    lines: list[str] = []
    one, two = (odd(makes, name, seed, 2, 2) for name, seed in (("one", 1), ("two", 2)))
    found = merge([one, two], {one.id: 0.5, two.id: 0.0}, say=lines.append)
    close(products(found), full_sum([one], {one.id: 0.5}), 1e-4)
    assert f"the start of {one.id} is not known" in lines[0]
    whole = merge([one], {one.id: 1.0}, say=lines.append)
    torch.testing.assert_close(whole.tensors, dict(one.tensors()))
    assert len(lines) == 1
    with pytest.raises(DeltaError, match=r"is not known"):
        merge([one], {one.id: 0.5}, "linear")


def test_linear_warns_of_unknown_starts_for_every_method(makes):
    for method in ("lora", "adapter", "prefix"):
        lines: list[str] = []
        modules = makes.modules(2, method, start=None)
        merge(modules, {module.id: 0.5 for module in modules}, "linear", say=lines.append)
        assert len(lines) == 1
        assert lines[0].startswith("the start of 2 of the 2 merged modules is not known")
        assert ("--merge svd" in lines[0]) == (method == "lora")


def test_a_merge_of_uneven_ranks_is_stored_and_read_as_it_was(strangers, tmp_path):
    from zoo import Card, Module

    joined = merge(strangers, {module.id: 1 / 3 for module in strangers}, "concat")
    card = Card(task="t", method="lora", settings=joined.settings, backbone="b", fingerprint="0" * 64)
    zoo = Zoo(tmp_path)
    again = Delta.from_module(zoo.get(zoo.add(Module.new(card, joined.tensors)).id))
    close(products(again), products(joined), 1e-7)


def test_a_module_of_scale_0_changes_nothing_and_does_not_set_the_scale(makes, strangers):
    idle = [odd(makes, name, 7 + number, 2, 0) for number, name in enumerate(("four", "five"))]
    weights = {module.id: 0.5 for module in (*strangers, *idle)}
    for how in ("svd", "concat"):
        found = merge([*strangers, *idle], weights, how)
        close(products(found), full_sum(strangers, weights), 1e-4)
        nothing = merge(idle, {module.id: 0.5 for module in idle}, how)
        assert all(not value.any() for value in products(nothing).values())


def test_default_loras_of_a_fused_layer_are_summed_and_keep_their_parts(small_zoo):
    _, zoo = small_zoo("gpt2")
    modules = [Module.new(dataclasses.replace(m.card, start=None), dict(m.tensors())) for m in zoo][:2]
    weights = {module.id: 0.5 for module in modules}
    found = merge(modules, weights, "svd")
    parts = modules[0].card.settings["parts"]
    assert {place: list(names) for place, names in found.settings["parts"].items()} == parts
    close(products(merge(modules, weights, "concat")), full_sum(modules, weights))


@pytest.mark.parametrize("most", [3, 64])
def test_more_ranks_than_are_multiplied_at_once_lose_no_module(makes, monkeypatch, most):
    monkeypatch.setattr(svd, "SUMMED", most)
    modules = [odd(makes, f"t{seed}", seed, 8, 8 + seed, size=(12, 10)) for seed in range(12)]
    weights = {module.id: 0.3 - 0.04 * number for number, module in enumerate(modules)}
    close(products(merge(modules, weights, "svd", rank=10)), full_sum(modules, weights), 1e-4)


def test_the_scale_is_that_of_most_modules(makes):
    modules = [odd(makes, f"t{seed}", seed, 2, alpha) for seed, alpha in enumerate((4, 8, 4))]
    method = merge(modules, {module.id: 1 / 3 for module in modules}, "svd").method
    assert {method.scale(place) for place in ("a", "b")} == {2.0}


def test_of_rank_and_energy_the_smaller_decides(makes):
    modules = [odd(makes, f"t{seed}", seed, 2, 4) for seed in range(2)]
    weights = {module.id: 0.5 for module in modules}
    assert merge(modules, weights, "svd", rank=1, energy=1.0).tensors["a.lora_A"].shape[0] == 1
    assert merge(modules, weights, "svd", rank=3, energy=1e-6).tensors["a.lora_A"].shape[0] == 1


def test_regmean_shrinks_what_inputs_have_in_common(makes):
    """One place of two inputs, worked out with numpy's solver."""
    one, two = (odd(makes, f"t{seed}", seed, 2, 2, places=("a",), size=(2, 3)) for seed in (0, 1))
    generator = torch.Generator().manual_seed(5)
    x = {module.id: torch.randn(9, 2, generator=generator) for module in (one, two)}
    grams = {module_id: {"a": rows.T @ rows / 9} for module_id, rows in x.items()}
    shrink, seen, answered = 0.5, torch.zeros(2, 2), torch.zeros(3, 2)
    for module in (one, two):
        gram = grams[module.id]["a"]
        gram = shrink * gram + (1 - shrink) * torch.diag(gram.diagonal())
        seen += 0.5 * gram
        answered += 0.5 * products(Delta.from_module(module))["a"].float() @ gram
    expected = answered @ torch.linalg.inv(seen)
    weights = {one.id: 0.5, two.id: 0.5}
    found, plain = (
        products(merge([one, two], weights, "regmean", grams=grams, shrink=by, rank=2))["a"].float()
        for by in (shrink, 1.0)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain, expected, rtol=1e-2)
    assert MERGES.get("regmean")().shrink == 0.9


def test_knots_trims_in_its_basis(makes):
    """Of one module and one place the basis is its own, so a quarter of the values of s V^T stays."""
    module = odd(makes, "t", 0, 2, 2, places=("a",), size=(6, 3))
    whole = products(merge([module], {module.id: 1.0}, "knots", density=1.0))["a"]
    u, s, vh = torch.linalg.svd(whole, full_matrices=False)
    v = vh[:2]
    least = v.abs().flatten().sort(descending=True).values[2]  # a quarter of 12 values
    expected = (u[:, :2] * s[:2]) @ torch.where(v.abs() >= least, v, 0)
    found = products(merge([module], {module.id: 1.0}, "knots", density=0.25))["a"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
