"""What each merge rule declares to keep, for every method it takes: of the change it makes, and of answers."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transfer.deltas import METHODS
from transfer.deltas.delta import Delta
from transfer.ensembling import MERGES, merge
from transfer.errors import ConfigError, DeltaError
from transfer.initialization import Initialization
from zoo import Card, Module, Zoo

signed = st.floats(-4, 4).map(lambda value: round(value, 3))
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shares = st.lists(st.floats(0.05, 1), min_size=4, max_size=4).map(lambda row: [value / sum(row) for value in row])

HOW_AND_METHOD = [
    (how, method)
    for how in MERGES.names()
    for method in METHODS.names()
    if MERGES.get(how).methods is None or method in MERGES.get(how).methods
]
each = pytest.mark.parametrize(("how", "method"), HOW_AND_METHOD)


def keeping(what: str):
    """The rules that declare to keep this, with each of their methods."""
    kept = [(how, method) for how, method in HOW_AND_METHOD if what in MERGES.get(how).keeps]
    return pytest.mark.parametrize(("how", "method"), kept)


class Inputs(dict):
    """Gram matrices for whatever module is asked about; modules of equal tensors had equal inputs."""

    def get(self, module_id, default=None):
        generator = torch.Generator().manual_seed(int(module_id[-8:], 16))
        return AnyPlace(generator)


class AnyPlace:
    def __init__(self, generator):
        self.x = torch.randn(40, 64, generator=generator).double()

    def get(self, place, default=None):
        width = 4 if place in ("a", "b") else 32
        return self.x[:, :width].T @ self.x[:, :width] / 40


def run(modules, weights, how, exact=False, **options):
    """The merge, with what the rule needs; `exact` takes the options at which it keeps what it declares."""
    rule = MERGES.get(how)
    given_ = {**({"grams": Inputs()} if how == "regmean" else {}), **(rule.keeps_with if exact else {}), **options}
    if rule.in_products and how != "concat" and exact:
        given_.setdefault("rank", 4)
    return merge(modules, weights, how, **given_)


def effect(delta, start=None):
    """Place -> the change of its weight where the rule looks at that, else tensor -> its change from the start."""
    if start is None:
        return products(delta)
    return {name: tensor - start[name] for name, tensor in delta.tensors.items()}


def products(delta):
    return {
        place: delta.tensors[f"{place}.lora_B"].double()
        @ delta.tensors[f"{place}.lora_A"].double()
        * delta.method.scale(place)
        for place in (name.removesuffix(".lora_A") for name in delta.tensors if name.endswith("lora_A"))
    }


def changes(how, method, makes):
    """What `effect` measures for this rule."""
    start = None if MERGES.get(how).in_products else makes.tensors(method, 0)
    return functools.partial(effect, start=start)


def close(left, right, tolerance=1e-4):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name].double(), right[name].double(), rtol=tolerance, atol=tolerance)


def equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@each
def test_fp32_finite_canonical_names_and_shapes_that_a_zoo_takes(how, method, makes):
    modules = makes.modules(3, method)
    delta = run(modules, {module.id: 1 / 3 for module in modules}, how)
    assert delta.tensors.keys() == dict(modules[0].tensors()).keys()
    assert {tensor.dtype for tensor in delta.tensors.values()} == {torch.float32}
    assert delta.method.method == method
    assert METHODS.get(method).from_settings(delta.settings) == delta.method
    card = {"task": "t", "method": method, "settings": delta.settings, "backbone": "b", "fingerprint": "0" * 64}
    Module.new(Card(**card), delta.tensors)
    if not MERGES.get(how).mixes:
        assert delta.settings == modules[0].card.settings


@keeping("identity")
def test_one_module_at_weight_1_comes_out(how, method, makes):
    one, other = makes.modules(2, method)
    measure = changes(how, method, makes)
    expected = measure(Delta.from_module(one))
    close(measure(run([one, other], {one.id: 1.0, other.id: 0.0}, how, exact=True)), expected)
    close(measure(run([one], {one.id: 1}, how, exact=True)), expected)


@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("how", ["linear", "published"])
def test_linear_gives_one_module_back_to_the_last_bit(how, method, makes):
    (one,) = makes.modules(1, method)
    equal(run([one], {one.id: 1}, how).tensors, dict(one.tensors()))


@keeping("scale")
@few
@given(factor=signed, pair=st.tuples(signed, signed))
def test_scaled_weights_scale_the_change(how, method, factor, pair, makes):
    modules, measure = makes.modules(2, method), changes(how, method, makes)
    weights = dict(zip((module.id for module in modules), pair, strict=True))
    scaled = {module_id: factor * weight for module_id, weight in weights.items()}
    plain = measure(run(modules, weights, how, exact=True))
    found = measure(run(modules, scaled, how, exact=True))
    close(found, {name: factor * value for name, value in plain.items()}, 5e-4)


@keeping("sign")
def test_negative_weight_gives_the_opposite_change(how, method, makes):
    (module,), measure = makes.modules(1, method), changes(how, method, makes)
    there = measure(run([module], {module.id: 1.0}, how, exact=True))
    back = measure(run([module], {module.id: -1.0}, how, exact=True))
    close(back, {name: -value for name, value in there.items()})


@keeping("permutation")
@few
@given(data=st.data(), values=shares)
def test_order_does_not_matter_to_the_last_bit(how, method, data, values, makes):
    modules = makes.modules(4, method)
    weights = dict(zip((module.id for module in modules), values, strict=True))
    shuffled = dict(data.draw(st.permutations(list(weights.items()))))
    order = data.draw(st.permutations(modules))
    equal(run(order, shuffled, how).tensors, run(modules, weights, how).tensors)


@keeping("duplicates")
def test_equal_modules_act_as_one_with_the_sum_of_their_weights(how, method, makes):
    tensors, measure = makes.tensors(method, 7), changes(how, method, makes)
    one, again = (makes.module(task, 0, method, tensors=tensors) for task in ("one", "two"))
    other = makes.module("other", 8, method)
    double = run([one, again, other], {one.id: 0.3, again.id: 0.2, other.id: 0.5}, how, exact=True)
    close(measure(double), measure(run([one, other], {one.id: 0.5, other.id: 0.5}, how, exact=True)))


@each
def test_a_stored_zoo_gives_what_modules_in_memory_give(how, method, makes, tmp_path):
    modules = makes.modules(3, method)
    weights = dict(zip((module.id for module in modules), (0.2, 0.3, 0.5), strict=True))
    zoo = Zoo(tmp_path)
    for module in modules:
        zoo.add(module)
    equal(run(zoo, weights, how).tensors, run(modules, weights, how).tensors)


@functools.cache
def on_a_backbone(method):
    """(backbone, three modules around one start) of a method on a tiny BERT."""
    backbone, chosen = tiny.tiny_backbone("bert"), METHODS.get(method)()
    start = chosen.draw(backbone.model)
    card = {"method": method, "settings": chosen.settings(backbone.model), "backbone": "tiny"}
    found = []
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        tensors = {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in start.items()}
        named = Card(task=f"task-{number}", fingerprint=backbone.fingerprint, **card)
        found.append(Module.new(named, tensors, start=start))
    return backbone, found


def answers(backbone, delta):
    with backbone.use(delta):
        return backbone.choice_logits(tiny.sentiment_rows(4))


@each
def test_answers_of_one_module_at_weight_1_and_of_what_was_saved_and_read_again(how, method, tmp_path):
    backbone, modules = on_a_backbone(method)
    one, rule = modules[0], MERGES.get(how)
    options = {"rank": 8} if rule.in_products and how != "concat" else {}
    same = run([one], {one.id: 1.0}, how, exact=True, **options)
    torch.testing.assert_close(answers(backbone, same), answers(backbone, one), rtol=2e-4, atol=2e-4)
    merged = run(modules, {module.id: 1 / 3 for module in modules}, how)
    recipe = {"backbone": "tiny", "kind": "encoder", "base_model_prefix": "", "schema": 1, "verdict": None}
    recipe |= {"modules": [], "weights": {}, "scores": {}, "estimator": "gradient:first-order"}
    recipe |= {"method": method, "settings": merged.settings, "fingerprint": backbone.fingerprint}
    recipe["handed_over"] = "scratch"
    recipe["target"] = {"name": "toy"}
    Initialization(merged, recipe).save(tmp_path / "init")
    again = Initialization.load(tmp_path / "init").delta
    assert torch.equal(answers(backbone, again), answers(backbone, merged))


@each
def test_a_table_of_equal_weights_is_the_same_as_one_weight_and_rows_act_on_their_own_blocks(how, method):
    _, modules = on_a_backbone(method)
    weights = [0.5, 0.3, 0.2]
    if method == "soft-prompt":  # it is in no block
        with pytest.raises(ConfigError, match="the modules reach 0 blocks"):
            run(modules, {m.id: [w, w] for m, w in zip(modules, weights, strict=True)}, how)
        return
    plain = run(modules, {m.id: w for m, w in zip(modules, weights, strict=True)}, how)
    flat = run(modules, {m.id: [w, w] for m, w in zip(modules, weights, strict=True)}, how)
    close(flat.tensors, plain.tensors, 1e-5)
    turned = run(modules, {m.id: [w, v] for m, w, v in zip(modules, weights, weights[::-1], strict=True)}, how)
    other = run(modules, {m.id: v for m, v in zip(modules, weights[::-1], strict=True)}, how)
    if how == "aligned":  # the kept order depends on all weights of a module
        return
    for name, tensor in turned.tensors.items():
        torch.testing.assert_close(tensor, (plain if ".0." in name else other).tensors[name], rtol=1e-4, atol=1e-4)


@each
def test_rules_without_signs_refuse_negative_weights_by_name(how, method, makes):
    modules = makes.modules(2, method)
    weights = {modules[0].id: 1.5, modules[1].id: -0.5}
    if MERGES.get(how).signed:
        assert run(modules, weights, how).tensors
        return
    with pytest.raises(DeltaError, match=modules[1].id):
        run(modules, weights, how)


@pytest.mark.parametrize("how", [how for how in MERGES.names() if MERGES.get(how).needs_start])
def test_rules_that_need_the_shared_start_refuse_others_by_name(how, makes):
    known, unknown, other = makes.module("a", 1), makes.module("b", 2, start=None), makes.module("c", 3, start=9)
    with pytest.raises(DeltaError, match=f"start of '{unknown.id}' is not known"):
        run([known, unknown], {known.id: 0.5, unknown.id: 0.5}, how)
    with pytest.raises(DeltaError, match=f"'{known.id}' and '{other.id}' were trained from different starts"):
        run([known, other], {known.id: 0.5, other.id: 0.5}, how)


@pytest.mark.parametrize("how", MERGES.names())
def test_a_rule_has_its_name_and_refuses_options_it_lacks(how, makes):
    (module,) = makes.modules(1)
    assert MERGES.get(how).name == how
    with pytest.raises(ConfigError, match=f"{how!r} has no option 'colour'"):
        merge([module], {module.id: 1.0}, how, colour=3)


@pytest.mark.parametrize("how", [how for how in MERGES.names() if MERGES.get(how).methods is not None])
def test_a_rule_refuses_other_methods_by_name(how, makes):
    module = makes.module("x", 1, "bitfit")
    with pytest.raises(DeltaError, match=f"{how!r} cannot merge bitfit modules such as '{module.id}'"):
        run([module], {module.id: 1.0}, how)
