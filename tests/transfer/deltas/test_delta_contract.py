"""One contract for all methods on all architectures; a new method is covered the day it is added."""

from __future__ import annotations

import copy
import pickle

import pytest
import tiny
import torch

from transfer.deltas import METHODS, Delta
from transfer.errors import DeltaError
from zoo import Card, Module, Zoo

FOLDS = {"lora", "bitfit", "sora"}  # where a change of the backbone's own parameters does the same
# What cannot be, and what the error says.
NOT_THERE = {("soft-prompt", "vit"): "takes no inputs_embeds in place of token ids"}
PAIRS = [
    (method, arch)
    for method in METHODS.names()
    for arch in (*tiny.ARCHITECTURES, *tiny.VISION)
    if (method, arch) not in NOT_THERE
]
# Methods that share their hooks with the adapter: what does not depend on their own part is tested on a few.
ALIKE, FEW = ("parallel-adapter", "low-rank-adapter", "compacter"), ("bert", "t5", "llama")
every_pair = pytest.mark.parametrize(("name", "arch"), PAIRS)
most_pairs = pytest.mark.parametrize(("name", "arch"), [p for p in PAIRS if p[0] not in ALIKE or p[1] in FEW])
text_pairs = pytest.mark.parametrize(
    ("name", "arch"), [p for p in PAIRS if p[1] not in tiny.VISION and (p[0] not in ALIKE or p[1] in FEW)]
)


@pytest.fixture
def case(name, arch, tiny_model, inputs_for):
    return METHODS.get(name)(), tiny_model(arch), inputs_for(arch)


@every_pair
@torch.no_grad()
def test_on_off_and_on_again(case, outputs, disturbed):
    method, model, inputs = case
    before = outputs(model, inputs)
    attached = method.attach(model)
    disturbed(attached)
    changed = outputs(model, inputs)
    assert not torch.allclose(changed, before, atol=1e-4)
    attached.detach()
    assert torch.equal(outputs(model, inputs), before)
    assert not attached.attached
    attached.attach()
    assert torch.equal(outputs(model, inputs), changed)
    attached.detach()
    assert torch.equal(outputs(model, inputs), before)


@every_pair
@torch.no_grad()
def test_the_start_is_near_the_bare_backbone(case, outputs):
    method, model, inputs = case
    before = outputs(model, inputs)
    attached = method.attach(model)
    if method.starts_bare:
        assert torch.equal(outputs(model, inputs), before)
    else:  # random by design: small keys and values take some attention
        assert torch.isfinite(outputs(model, inputs)).all()
    assert attached.attached


@every_pair
def test_gradients_reach_the_delta_and_nothing_else(case, outputs, disturbed):
    method, model, inputs = case
    attached = method.attach(model)
    disturbed(attached)
    outputs(model, inputs).square().mean().backward()
    own = {id(parameter) for parameter in attached.parameters()}
    for name, parameter in model.named_parameters():
        if id(parameter) in own:
            assert parameter.requires_grad, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name


@every_pair
@torch.no_grad()
def test_tensors_go_out_and_in(case, outputs, disturbed):
    method, model, inputs = case
    attached = method.attach(model)
    disturbed(attached)
    changed = outputs(model, inputs)
    tensors = {name: tensor.clone() for name, tensor in attached.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == method.shapes(model)
    assert sum(tensor.numel() for tensor in tensors.values()) == attached.n_parameters
    attached.detach()
    again = method.attach(model, tensors)
    assert torch.equal(outputs(model, inputs), changed)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, tensors[name])


@every_pair
@torch.no_grad()
def test_settings_build_the_method_again(case, outputs, disturbed):
    method, model, inputs = case
    attached = method.attach(model)
    tensors = disturbed(attached)
    changed = outputs(model, inputs)
    attached.detach()
    settings = method.settings(model)
    assert settings["places"] == attached.places
    again = type(method).from_settings(settings)
    assert again.settings(model) == settings
    Delta(again, tensors).attach(model)
    assert torch.equal(outputs(model, inputs), changed)


@pytest.mark.parametrize(("name", "arch"), sorted(NOT_THERE))
def test_what_cannot_be_says_why(name, arch, tiny_model):
    with pytest.raises(DeltaError, match=NOT_THERE[name, arch]):
        METHODS.get(name)().attach(tiny_model(arch))


# Parallel adapters too: with a cache the tokens come one by one past what keeps their input.
@pytest.mark.parametrize("arch", [*tiny.SEQ2SEQ, *tiny.CAUSAL])
@pytest.mark.parametrize("name", ["prefix", "soft-prompt", "parallel-adapter"])
@torch.no_grad()
def test_greedy_generation_is_the_same_with_a_cache_and_without(case, disturbed):
    method, model, inputs = case
    inputs.pop("decoder_input_ids", None)
    # No token twice: tiny models would say the same one over and over, with a cache or without.
    settings = {"max_new_tokens": 5, "do_sample": False, "no_repeat_ngram_size": 1, "pad_token_id": 1}
    settings |= {"eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
    bare = model.generate(**inputs, **settings)
    disturbed(method.attach(model))
    cached = model.generate(**inputs, **settings, use_cache=True)
    uncached = model.generate(**inputs, **settings, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert cached.sequences.shape == bare.sequences.shape
    for step, (left, right) in enumerate(zip(cached.logits, uncached.logits, strict=True)):
        assert torch.allclose(left, right, atol=1e-4), step
    assert not torch.allclose(cached.logits[0], bare.logits[0], atol=1e-3)


@pytest.mark.parametrize("arch", ["bert", "t5"])
@pytest.mark.parametrize("name", METHODS.names())
@torch.no_grad()
def test_a_stored_module_gives_the_same(case, arch, tmp_path, outputs, disturbed):
    method, model, inputs = case
    attached = method.attach(model)
    tensors = disturbed(attached)
    changed = outputs(model, inputs)
    attached.detach()
    card = Card(task="toy", method=method.method, settings=method.settings(model), backbone=arch, fingerprint="a" * 64)
    Delta.from_module(Zoo(tmp_path).add(Module.new(card, tensors))).attach(model)
    assert torch.equal(outputs(model, inputs), changed)


@pytest.mark.parametrize("name", METHODS.names())
@torch.no_grad()
def test_a_merged_backbone_answers_as_with_the_delta_on(name, tiny_model, inputs_for, outputs, disturbed):
    method, model, inputs = METHODS.get(name)(), tiny_model("bert"), inputs_for("bert")
    attached = method.attach(model)
    disturbed(attached)
    changed = outputs(model, inputs)
    if name in FOLDS:
        attached.merge()
        assert not attached.attached
    else:
        with pytest.raises(DeltaError, match="cannot be merged into the backbone"):
            attached.merge()
    assert torch.allclose(outputs(model, inputs), changed, atol=1e-5)


@most_pairs
@torch.no_grad()
def test_copies_and_pickles_act_alike_and_apart(case, outputs, disturbed):
    method, model, inputs = case
    before = outputs(model, inputs)
    disturbed(method.attach(model))
    changed = outputs(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(outputs(other, inputs), changed)
        other.delta_0.detach()
        assert torch.equal(outputs(other, inputs), before)
    assert torch.equal(outputs(model, inputs), changed)


@most_pairs
@torch.no_grad()
def test_the_host_state_goes_around(case, outputs, disturbed):
    method, model, inputs = case
    attached = method.attach(model)
    disturbed(attached)
    changed = outputs(model, inputs)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    disturbed(attached, seed=1)
    model.load_state_dict(state)
    assert torch.equal(outputs(model, inputs), changed)


@most_pairs
@torch.no_grad()
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_at_one_place_come_off_in_any_order(case, outputs, disturbed, order):
    method, model, inputs = case
    before = outputs(model, inputs)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    alone = []
    for seed in (0, 1):
        attached = method.attach(model)
        disturbed(attached, seed)
        alone.append(outputs(model, inputs))
        attached.detach()
    both = [method.attach(model), method.attach(model)]
    for seed, attached in enumerate(both):
        disturbed(attached, seed)
    together = outputs(model, inputs)
    assert not torch.allclose(together, alone[0], atol=1e-5)
    assert not torch.allclose(together, alone[1], atol=1e-5)
    first, second = order
    both[first].detach()
    assert torch.equal(outputs(model, inputs), alone[second])
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if "delta_" not in name)
    both[second].detach()
    assert torch.equal(outputs(model, inputs), before)
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


@text_pairs
@torch.no_grad()
def test_padding_does_not_change_a_row(case, arch, outputs, disturbed):
    method, model, inputs = case
    disturbed(method.attach(model))
    real = inputs["attention_mask"][1].bool()
    alone = {name: tensor[1:2] for name, tensor in inputs.items()}
    alone["input_ids"], alone["attention_mask"] = alone["input_ids"][:, real], alone["attention_mask"][:, real]
    if arch in tiny.CAUSAL:  # they count positions over the padding in front unless told not to
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    batch, single = model(**inputs), model(**alone)
    if "decoder_input_ids" in inputs:
        row = batch.logits[1]
    else:
        row = (batch.logits if hasattr(batch, "logits") else batch.last_hidden_state)[1][real]
    expected = (single.logits if hasattr(single, "logits") else single.last_hidden_state)[0]
    assert torch.allclose(row, expected, atol=1e-5)


@most_pairs
def test_a_bf16_backbone_keeps_its_dtype_and_the_delta_its_own(case, outputs, disturbed):
    method, model, inputs = case
    model.to(torch.bfloat16)
    attached = method.attach(model)
    disturbed(attached)
    output = outputs(model, inputs)
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    for parameter in attached.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad.dtype == torch.float32
        assert torch.isfinite(parameter.grad).all()


@most_pairs
def test_autocast_trains(case, outputs, disturbed):
    method, model, inputs = case
    attached = method.attach(model)
    disturbed(attached)
    with torch.autocast("cpu", torch.bfloat16):
        loss = outputs(model, inputs).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in attached.parameters())


@most_pairs
def test_gradient_checkpointing_gives_the_same_gradients(case, arch, outputs, disturbed):
    method, model, inputs = case
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "activation_dropout"):  # T5 and BART keep theirs as numbers
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    attached = method.attach(model)
    disturbed(attached)
    if arch in (*tiny.CAUSAL, *tiny.SEQ2SEQ):
        inputs["use_cache"] = False
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        outputs(model, inputs).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in attached.parameters()])
        attached.zero_grad()
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)


@most_pairs
def test_tensors_that_do_not_fit_are_named(case):
    method, model, _ = case
    start = method.draw(model)
    name, tensor = next(iter(start.items()))
    with pytest.raises(DeltaError, match=f"missing 1: {name}"):
        method.attach(model, {other: value for other, value in start.items() if other != name})
    with pytest.raises(DeltaError, match="unexpected 1: nonsense"):
        method.attach(model, {**start, "nonsense": tensor})
    with pytest.raises(DeltaError, match="another shape"):
        method.attach(model, {**start, name: tensor[..., :-1]})
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not hasattr(model, "delta_0")


@pytest.mark.parametrize("name", METHODS.names())
def test_the_draw_is_the_same_and_leaves_the_generator_alone(name, tiny_model):
    method, model = METHODS.get(name)(), tiny_model("bert")
    state = torch.random.get_rng_state()
    first, second, other = method.draw(model), method.draw(model), method.draw(model, seed=1)
    method.attach(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    zero = not any(tensor.any() for tensor in first.values())  # a start without anything random
    assert zero or any(not torch.equal(first[key], other[key]) for key in first)
    assert all(torch.equal(tensor.half().float(), tensor) for tensor in first.values())


@pytest.mark.parametrize("name", METHODS.names())
def test_a_backbone_stands_for_its_inner_model(name, tiny_model):
    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.tokenizer = model, object()

    model = tiny_model("bert")
    attached = METHODS.get(name)().attach(Wrapper(model))
    assert attached.host is model
    assert model.delta_0 is attached
