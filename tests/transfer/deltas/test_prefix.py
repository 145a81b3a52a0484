from __future__ import annotations

import functools

import pytest
import tiny
import torch
import transformers
from torch import nn

from transfer.deltas import Prefix
from transfer.errors import ConfigError, DeltaError

IMPLEMENTATIONS = ("eager", "sdpa")
SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
    "pad_token_id": 1,
}


def make(kind, config, **settings):
    """A model of another architecture, with weights that are clearly not near zero."""
    torch.manual_seed(0)
    model = kind(config(**{**SIZES, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.08)
    return model


# Encoders beside the tiny ones; v3 of DeBERTa shares its keys between content and positions.
OTHERS = {
    "deberta-v3": functools.partial(
        make,
        transformers.DebertaV2Model,
        transformers.DebertaV2Config,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
    ),
    "mpnet": functools.partial(make, transformers.MPNetModel, transformers.MPNetConfig),
    "electra": functools.partial(make, transformers.ElectraModel, transformers.ElectraConfig),
    "albert": functools.partial(make, transformers.AlbertModel, transformers.AlbertConfig),
    "xlm-roberta": functools.partial(make, transformers.XLMRobertaModel, transformers.XLMRobertaConfig),
    "modernbert": functools.partial(
        make, transformers.ModernBertModel, transformers.ModernBertConfig, cls_token_id=0, sep_token_id=2
    ),
    "distilbert": functools.partial(
        make, transformers.DistilBertModel, transformers.DistilBertConfig, dim=32, n_layers=2, n_heads=4, hidden_dim=64
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("arch", [arch for arch in tiny.ARCHITECTURES if arch != "deberta-v2"])
def test_eager_and_sdpa_agree(arch, tiny_model, inputs_for, outputs, disturbed):
    results = []
    for implementation in IMPLEMENTATIONS:
        model = tiny_model(arch)
        model.set_attn_implementation(implementation)
        attached = Prefix(length=5).attach(model)
        disturbed(attached)
        results.append(outputs(model, inputs_for(arch)))
        attached.detach()
        assert model.config._attn_implementation == implementation
    assert torch.allclose(*results, atol=1e-5)


@torch.no_grad()
def test_it_is_attention_over_more_keys_and_values(tiny_model, disturbed):
    """One attention module, worked out by hand."""
    model = tiny_model("bert")
    attention = model.encoder.layer[0].attention.self
    attached = Prefix(length=3).attach(model)
    tensors = disturbed(attached)
    x = torch.randn(1, 4, 32)
    output = attention(x, attention_mask=None)[0]
    query, key, value = (layer(x)[0] for layer in (attention.query, attention.key, attention.value))
    key = torch.cat([tensors["encoder.layer.0.attention.self.prefix_key"], key])
    value = torch.cat([tensors["encoder.layer.0.attention.self.prefix_value"], value])
    heads = [
        torch.softmax(q @ k.T / 8**0.5, dim=-1) @ v
        for q, k, v in zip(query.split(8, -1), key.split(8, -1), value.split(8, -1), strict=True)
    ]
    assert torch.allclose(output[0], torch.cat(heads, dim=-1), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", [*tiny.ARCHITECTURES, *OTHERS])
def test_two_prefixes_are_one_of_both_lengths(arch, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = OTHERS[arch]() if arch in OTHERS else tiny_model(arch), inputs_for(arch)
    long = Prefix(length=5).attach(model)
    tensors = disturbed(long)
    expected = outputs(model, inputs)
    long.detach()
    for length, rows in ((2, slice(0, 2)), (3, slice(2, 5))):
        Prefix(length=length).attach(model, {name: tensor[rows] for name, tensor in tensors.items()})
    assert torch.allclose(outputs(model, inputs), expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_models_take_it_too(name, inputs_for, outputs, disturbed):
    model, inputs = OTHERS[name](), inputs_for("bert")
    before = outputs(model, inputs)
    attached = Prefix(length=5).attach(model)
    disturbed(attached)
    changed = outputs(model, inputs)
    assert not torch.allclose(changed, before, atol=1e-4)
    inputs["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 9)
    assert torch.allclose(outputs(model, inputs), changed, atol=1e-6)  # padding is not seen
    attached.detach()
    inputs = inputs_for("bert")
    assert torch.equal(outputs(model, inputs), before)


@torch.no_grad()
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_causal_model_stays_causal(arch, implementation, masked, tiny_model, inputs_for, disturbed):
    model = tiny_model(arch)
    model.set_attn_implementation(implementation)
    disturbed(Prefix(length=5).attach(model))
    ids = inputs_for(arch)["input_ids"][:1]
    other = ids.clone()
    other[0, -1] += 1
    mask = {"attention_mask": torch.ones_like(ids)} if masked else {}
    first, second = model(input_ids=ids, **mask).logits, model(input_ids=other, **mask).logits
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("arch", [*tiny.CAUSAL, *tiny.SEQ2SEQ])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_the_same_with_and_without_cache(arch, implementation, beams, tiny_model, inputs_for, disturbed):
    model = tiny_model(arch)
    model.set_attn_implementation(implementation)
    inputs = inputs_for(arch)
    inputs.pop("decoder_input_ids", None)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": beams, "pad_token_id": 1}
    bare = model.generate(**inputs, **settings)
    disturbed(Prefix(length=5).attach(model))
    with_cache, without = (model.generate(**inputs, **settings, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache, without)
    assert not torch.equal(with_cache, bare)


def test_a_static_cache_gives_the_same(tiny_model, inputs_for, disturbed):
    model = tiny_model("llama")
    disturbed(Prefix(length=5).attach(model))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    static = model.generate(**inputs_for("llama"), **settings, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, model.generate(**inputs_for("llama"), **settings))


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "roberta", "gpt2"])
def test_the_shift_moves_the_positions_of_the_text(arch, tiny_model, inputs_for, disturbed):
    model = tiny_model(arch)
    inputs = inputs_for(arch)
    seen = []
    name = next(name for name, _ in model.named_modules() if name.endswith(("position_embeddings", "wpe")))
    hook = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    model(**inputs)
    hook.remove()
    attached = Prefix(length=5).attach(model)
    hook = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    model(**inputs)
    attached.detach()
    model(**inputs)
    assert torch.equal(seen[1], seen[0] + 5)
    assert torch.equal(seen[2], seen[0])
    hook.remove()


@pytest.mark.parametrize(("arch", "shifts"), [("bert", True), ("llama", True), ("t5", False), ("bart", False)])
def test_the_card_says_whether_positions_shift(arch, shifts, tiny_model):
    assert Prefix().settings(tiny_model(arch))["position_shift"] is shifts


def test_a_text_beyond_the_last_position_is_refused(tiny_model):
    model = tiny_model("bert")
    ids = torch.randint(5, 200, (1, 150))
    attached = Prefix(length=16).attach(model)
    with pytest.raises(DeltaError, match="150 tokens and a prefix of 16"):
        model(input_ids=ids)
    attached.detach()
    Prefix(length=16, position_shift=False).attach(model)
    model(input_ids=ids)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "deberta-v2", "t5"])
def test_the_residual_network_starts_as_nothing_and_is_folded(arch, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    direct = Prefix(length=5).attach(model)
    tensors = disturbed(direct)
    expected = outputs(model, inputs)
    direct.detach()
    attached = Prefix(length=5, reparameterisation=6).attach(model, tensors)
    assert torch.equal(outputs(model, inputs), expected)
    assert attached.n_parameters == direct.n_parameters
    for name, parameter in attached.named_parameters():
        if name.endswith("_up"):
            parameter.normal_()
    trained, stored = outputs(model, inputs), {name: t.clone() for name, t in attached.state_dict().items()}
    assert not torch.allclose(trained, expected, atol=1e-4)
    attached.detach()
    Prefix(length=5).attach(model, stored)
    assert torch.allclose(outputs(model, inputs), trained, atol=1e-5)


def test_attention_that_is_off_the_interface_is_refused_by_name(tiny_model):
    class OwnAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.value(x)

    model = nn.ModuleDict({"attention": OwnAttention()})
    with pytest.raises(DeltaError, match="OwnAttention computes its attention by itself"):
        Prefix().attach(model)


def test_a_prefix_that_is_passed_by_is_noticed(tiny_model, inputs_for):
    model = tiny_model("bert")
    Prefix().attach(model)
    model(**inputs_for("bert"))
    model.set_attn_implementation("eager")
    with pytest.raises(DeltaError, match=r"the prefix at 'encoder\.layer\.0\.attention\.self' was never used"):
        model(**inputs_for("bert"))


def test_an_implementation_without_a_way_in_is_refused(tiny_model):
    model = tiny_model("bert")
    model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(DeltaError, match="'flex_attention'"):
        Prefix().attach(model)
    assert model.config._attn_implementation == "flex_attention"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_models_with_the_same_config_go_on_as_they_were(tiny_model, inputs_for, outputs, disturbed):
    model = tiny_model("bert")
    neighbour = type(model)(model.config).eval()
    before = outputs(neighbour, inputs_for("bert"))
    disturbed(Prefix().attach(model))
    assert torch.allclose(outputs(neighbour, inputs_for("bert")), before, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"reparameterisation": 0}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Prefix(**wrong)


def test_the_start_has_the_stated_deviation(tiny_model):
    values = torch.cat([tensor.flatten() for tensor in Prefix(length=64).draw(tiny_model("bert")).values()])
    assert values.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(values.mean().item()) < 1e-3


def test_a_table_of_positions_that_begins_later_has_fewer_of_them(tiny_model):
    model = tiny_model("roberta")  # 162 rows, the first two of which are no positions
    Prefix(length=16).attach(model)
    ids = torch.full((1, 145), 7)
    with torch.no_grad():
        assert model(ids[:, :144]).last_hidden_state.shape[1] == 144
        with pytest.raises(DeltaError, match=r"(?s)160 positions.*cut the text to 144 tokens"):
            model(ids)
