"""Mixed batches: every row answers as it does when its delta is attached alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import tiny
import torch
from torch import nn
from transformers import LongformerConfig, LongformerModel

from transfer.deltas import Adapter, BitFit, Delta, LoRA, Mixed, Prefix, SoftPrompt
from transfer.deltas.mixed import MIXED
from transfer.errors import ConfigError, DeltaError

METHODS = (
    LoRA(rank=4),
    LoRA(rank=2, alpha=3, where=("attn.q", "ff.w1")),
    Adapter(bottleneck=3),
    Adapter(bottleneck=2, activation="relu", where=("ff.w2",)),
    BitFit(),
    Prefix(length=3),
    Prefix(length=5, reparameterisation=4),
)
ROWS = (0, 5, None, 2, 6, 1, 3, 4, 0)


def batch_for(arch, n, seed=3):
    """Rows of various lengths: padded behind for encoders, in front for decoders."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 200, (n, 9), generator=generator)
    mask = torch.ones(n, 9, dtype=torch.long)
    for row in range(n):
        padding = slice(0, row % 4) if arch in tiny.CAUSAL else slice(9 - row % 4, 9)
        ids[row, padding], mask[row, padding] = 1, 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if arch in tiny.SEQ2SEQ:
        inputs["decoder_input_ids"] = torch.randint(5, 200, (n, 5), generator=generator)
    return inputs


def outputs(model, inputs):
    found = model(**inputs)
    values = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return values if "decoder_input_ids" in inputs else values * inputs["attention_mask"][..., None]


def alone(model, deltas, rows, run):
    """What `run(slice of one row)` gives for each row with its own delta attached, in order."""
    found = []
    for row, number in enumerate(rows):
        attached = None if number is None else deltas[number].attach(model)
        found.append(run(slice(row, row + 1)))
        if attached is not None:
            attached.detach()
    return found


def expected(model, deltas, rows, inputs):
    return torch.cat(
        alone(model, deltas, rows, lambda at: outputs(model, {name: value[at] for name, value in inputs.items()}))
    )


@pytest.mark.parametrize(
    ("arch", "implementation"),
    [(arch, "sdpa") for arch in tiny.ARCHITECTURES if arch != "deberta-v2"]  # it has but one
    + [(arch, "eager") for arch in tiny.ARCHITECTURES],
)
@torch.no_grad()
def test_every_row_is_as_if_it_were_alone(arch, implementation, tiny_model):
    model = tiny_model(arch)
    model.set_attn_implementation(implementation)
    deltas = [tiny.random_delta(method, model, seed) for seed, method in enumerate(METHODS)]
    inputs = batch_for(arch, len(ROWS))
    bare, wanted = outputs(model, inputs), expected(model, deltas, ROWS, inputs)
    mixed = Mixed(model, deltas).attach()
    with mixed.rows(ROWS):
        assert torch.allclose(outputs(model, inputs), wanted, atol=2e-5)
    with mixed.rows([None] * len(ROWS)):
        assert torch.allclose(outputs(model, inputs), bare, atol=2e-5)
    mixed.detach()
    assert torch.equal(outputs(model, inputs), bare)
    assert not torch.allclose(wanted, bare, atol=1e-2)
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("arch", ["t5", "gpt2", "llama", "bart"])
@torch.no_grad()
def test_generating_with_a_cache_is_as_if_each_row_were_alone(arch, tiny_model):
    model = tiny_model(arch)
    deltas = [tiny.random_delta(method, model, seed) for seed, method in enumerate(METHODS)]
    inputs = {k: v for k, v in batch_for(arch, len(ROWS)).items() if k != "decoder_input_ids"}
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 1}

    def generated(at, **more):
        ids = {name: value[at] for name, value in inputs.items()}
        return model.generate(**ids, **options, **more)[:, -6:]

    wanted = torch.cat(alone(model, deltas, ROWS, generated))
    beams = torch.cat(alone(model, deltas, ROWS, lambda at: generated(at, num_beams=2)))
    bare = generated(slice(None))
    mixed = Mixed(model, deltas).attach()
    with mixed.rows(ROWS):
        assert torch.equal(generated(slice(None)), wanted)
        assert torch.equal(generated(slice(None), use_cache=False), wanted)
        assert torch.equal(generated(slice(None), num_beams=2), beams)
    assert not torch.equal(wanted, bare)


@torch.no_grad()
def test_without_a_mask_of_the_text_each_row_still_sees_its_own_prefix_alone(tiny_model):
    for arch in ("bert", "t5", "gpt2"):
        model = tiny_model(arch)
        deltas = [tiny.random_delta(Prefix(length=n), model, n) for n in (2, 4)]
        inputs = {name: value for name, value in batch_for(arch, 4).items() if name != "attention_mask"}
        rows = [1, None, 0, 1]
        run = lambda at: model(**{k: v[at] for k, v in inputs.items()})[0]  # noqa: B023, E731
        wanted = torch.cat(alone(model, deltas, rows, run))
        mixed = Mixed(model, deltas).attach()
        with mixed.rows(rows):
            assert torch.allclose(run(slice(None)), wanted, atol=2e-5), arch


@torch.no_grad()
def test_rows_on_a_plain_model_by_hand():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 4))
    deltas = [tiny.random_delta(LoRA(rank=rank, alpha=5, where=("0",)), model, rank) for rank in (1, 2)]
    x = torch.randn(3, 6, 3)
    mixed = Mixed(model, deltas).attach()
    with mixed.rows(torch.tensor([1, -1, 0])):
        found = model(x)
    for row, number in enumerate([1, None, 0]):
        weight = model[0].weight.clone()
        if number is not None:
            tensors = deltas[number].tensors
            weight += 5 / (number + 1) * tensors["0.lora_B"] @ tensors["0.lora_A"]
        wanted = model[2](torch.tanh(x[row] @ weight.T + model[0].bias))
        assert torch.allclose(found[row], wanted, atol=1e-6)
    with mixed.rows([1, 0]):  # twice as many tokens in a row, laid flat
        assert torch.equal(model(x.reshape(18, 3)[:12])[:6], model(x[:2])[0])


def test_what_cannot_be_mixed_is_said(tiny_model):
    model = tiny_model("bert")
    with pytest.raises(DeltaError, match=r"(?s)'soft-prompt' cannot be mixed.*adapter, bitfit, lora, prefix"):
        Mixed(model, [tiny.random_delta(SoftPrompt(), model, 0)])
    good = tiny.random_delta(LoRA(), model, 0)
    with pytest.raises(DeltaError, match="missing 1"):
        Mixed(model, [good, Delta(LoRA(), dict(list(good.tensors.items())[1:]))])
    mixed = Mixed(model, [good]).attach()
    inputs = batch_for("bert", 3)
    with pytest.raises(DeltaError, match="not been told which deltas"):
        model(**inputs)
    with mixed.rows([0, 0]), pytest.raises(DeltaError, match="named for 2 rows, but a layer with a delta was given 3"):
        model(**inputs)
    with pytest.raises(ConfigError, match=r"(?s)no delta has the number 1.*1 deltas"), mixed.rows([0, 1, 0]):
        pass
    with mixed.rows([None]), pytest.raises(ConfigError), mixed.rows([-2]):
        pass
    assert mixed.router.rows is None


def test_shared_position_layers_of_deberta_v3_are_refused(tiny_model):
    from transformers import DebertaV2Model

    config = tiny_model("deberta-v2").config
    config.share_att_key = True
    model = DebertaV2Model(config).eval()
    mixed = Mixed(model, [tiny.random_delta(LoRA(), model, 0)]).attach()
    with mixed.rows([0, None, 0]), pytest.raises(DeltaError, match="DeBERTa-v3"):
        model(**batch_for("deberta-v2", 3))


def test_experts_are_refused():
    model = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2)]), "gate": nn.Linear(2, 2)})
    with pytest.raises(DeltaError, match="is an expert"):
        Mixed(model, [tiny.random_delta(LoRA(where=("experts.0",)), model, 0)])
    Mixed(model, [tiny.random_delta(LoRA(where=("gate",)), model, 0)])


@torch.no_grad()
def test_text_that_leaves_no_room_for_its_own_prefix_is_refused(tiny_model):
    model = tiny_model("bert")
    mixed = Mixed(
        model, [tiny.random_delta(Prefix(length=2), model, 0), tiny.random_delta(Prefix(length=30), model, 1)]
    ).attach()
    ids = torch.full((2, 150), 7)
    with mixed.rows([0, None]):
        model(input_ids=ids)
    with mixed.rows([0, 1]), pytest.raises(DeltaError, match="150 tokens and a prefix of 30"):
        model(input_ids=ids)


@torch.no_grad()
def test_other_deltas_act_along_on_every_row(tiny_model):
    model, inputs = tiny_model("bert"), batch_for("bert", 3)
    deltas = [tiny.random_delta(LoRA(), model, 0), tiny.random_delta(Prefix(length=2), model, 1)]
    for method in (Adapter(), Prefix(length=3)):
        tiny.random_delta(method, model, 2).attach(model)
    wanted = expected(model, deltas, [0, 1, None], inputs)
    mixed = Mixed(model, deltas).attach()
    with mixed.rows([0, 1, None]):
        assert torch.allclose(outputs(model, inputs), wanted, atol=2e-5)


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
@torch.no_grad()
def test_copies_and_pickles_take_their_deltas_along(arch, tiny_model):
    model, inputs = tiny_model(arch), batch_for(arch, len(ROWS))
    bare = outputs(model, inputs)
    mixed = Mixed(model, [tiny.random_delta(method, model, seed) for seed, method in enumerate(METHODS)]).attach()
    with mixed.rows(ROWS):
        wanted = outputs(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        own = other.delta_0
        assert own.router is not mixed.router
        with own.rows(ROWS):
            assert torch.equal(outputs(other, inputs), wanted)
        with own.rows([None] * len(ROWS)):
            assert torch.allclose(outputs(other, inputs), bare, atol=2e-5)
        own.detach()
        assert torch.equal(outputs(other, inputs), bare)


@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("way", ["autocast", "weights"])
@torch.no_grad()
def test_in_bf16_rows_are_as_alone_to_its_rounding(arch, way, tiny_model):
    model, inputs = tiny_model(arch), batch_for(arch, len(ROWS))
    if way == "weights":
        model.to(torch.bfloat16)
    deltas = [tiny.random_delta(method, model, seed) for seed, method in enumerate(METHODS)]
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        wanted = expected(model, deltas, ROWS, inputs).float()
        mixed = Mixed(model, deltas).attach()
        with mixed.rows(ROWS):
            found = outputs(model, inputs)
    assert found.dtype == (torch.bfloat16 if way == "weights" or arch != "bert" else torch.float32)
    assert (found.float() - wanted).norm() < 0.02 * wanted.norm()
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())


def test_gradients_with_checkpointing_are_those_of_each_alone(tiny_model):
    model, inputs, rows = tiny_model("gpt2"), batch_for("gpt2", 4), [0, 1, None, 1]
    inputs["use_cache"] = False
    deltas = [tiny.random_delta(method, model, seed) for seed, method in enumerate((LoRA(), Prefix(length=2)))]
    wanted = {}
    for number, delta in enumerate(deltas):
        attached = delta.attach(model)
        at = [row for row, used in enumerate(rows) if used == number]
        some = {k: v[at] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
        outputs(model, some).square().sum().backward()
        wanted[number] = {name: parameter.grad for name, parameter in attached.named_parameters()}
        attached.detach()
    mixed = Mixed(model, deltas).attach().requires_grad_(True)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with mixed.rows(rows):
        outputs(model, inputs).square().sum().backward()
    lora, prefix = mixed.sites[0], mixed.sites[-1]
    scale = LoRA().scale("any")
    first = wanted[0]["sites.0.lora_A"], wanted[0]["sites.0.lora_B"]
    assert torch.allclose(lora.lora_A.grad[1], first[0], rtol=1e-3, atol=1e-5)
    assert torch.allclose(lora.lora_B.grad[1] * scale, first[1], rtol=1e-3, atol=1e-5)
    assert torch.allclose(prefix.prefix_key.grad[2], wanted[1]["sites.1.prefix_key"], rtol=1e-3, atol=1e-5)


def test_every_method_that_can_be_mixed_is_among_those_tried_here():
    assert {method.method for method in METHODS} == set(MIXED.names())


@pytest.mark.parametrize(
    ("method", "match"),
    [
        (LoRA(where=("word_embeddings",)), "on the embedding"),
        (Adapter(reads="sum", where=("ff.norm",)), "reads the sum"),
    ],
)
def test_what_a_row_alone_does_not_tell_is_refused_by_name(method, match):
    model = tiny.tiny_model("bert")
    delta = Delta(method, method.draw(model))
    with pytest.raises(DeltaError, match=match):
        Mixed(model, [delta])


def test_attention_that_puts_tokens_in_front_of_rows_is_refused():
    config = LongformerConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        attention_window=[4], max_position_embeddings=66,
    )  # fmt: skip
    model = LongformerModel(config)
    delta = Delta(LoRA(), LoRA().draw(model))
    with pytest.raises(DeltaError, match=r"(?s)LongformerSelfAttention, which puts the tokens in front.*switching"):
        Mixed(model, [delta])
    outside = LoRA(where="output.dense")
    assert Mixed(model, [Delta(outside, outside.draw(model))]).places
