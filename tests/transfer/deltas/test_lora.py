from __future__ import annotations

import math

import peft
import pytest
import small
import tiny
import torch
from torch import nn

from transfer.deltas import Delta, LoRA
from transfer.deltas.modules import named_modules
from transfer.errors import ConfigError, DeltaError
from transfer.similarity import score
from transfer.similarity.capture import tensor_gradients, weight_gradients
from transfer.training import TuneSettings, tune
from zoo import Module
from zoo.formats import peft as peft_format


@torch.no_grad()
def test_the_output_is_that_of_the_changed_weight():
    model = nn.ModuleDict({"layer": nn.Linear(5, 3)})
    x = torch.randn(4, 2, 5)
    attached = LoRA(where="layer", rank=2, alpha=3).attach(model)
    a, b = torch.randn(2, 5), torch.randn(3, 2)
    attached.load_state_dict({"layer.lora_A": a, "layer.lora_B": b})
    expected = nn.functional.linear(x, model["layer"].weight + 3 / 2 * b @ a, model["layer"].bias)
    assert torch.allclose(model["layer"](x), expected, atol=1e-5)
    assert torch.allclose(model["layer"](input=x), expected, atol=1e-5)


@torch.no_grad()
def test_gpt2_convolutions_count_as_linear(tiny_model):
    model = tiny_model("gpt2")
    layer = model.transformer.h[0].attn.c_attn
    x = torch.randn(1, 4, 32)
    expected = layer(x)
    attached = LoRA(rank=2, alpha=4).attach(model)
    place = "transformer.h.0.attn.c_attn"
    a, b = torch.randn(2, 32), torch.randn(96, 2)
    attached.load_state_dict({f"{place}.lora_A": a, f"{place}.lora_B": b}, strict=False)
    assert torch.allclose(layer(x), expected + 2 * x @ a.T @ b.T, atol=1e-4)


@torch.no_grad()
def test_ranks_and_alphas_may_differ_by_place():
    model = nn.ModuleDict({"one": nn.Linear(5, 3), "two": nn.Linear(5, 3)})
    method = LoRA(where=("one", "two"), rank=2, alpha=2, ranks={"two": 4}, alphas={"two": 12})
    assert method.shapes(model)["two.lora_A"] == (4, 5)
    assert (method.scale("one"), method.scale("two")) == (1, 3)
    settings = method.settings(model)
    assert settings["ranks"] == {"two": 4}
    assert LoRA.from_settings(settings).scale("two") == 3
    assert "ranks" not in LoRA().settings()


@torch.no_grad()
def test_ranks_are_named_as_places_are_and_the_closer_name_goes_first(tiny_model):
    model = tiny_model("bert")
    method = LoRA(
        where=("attn.q", "ff.w2"),
        ranks={"attn.q": 3, "attn.q[1]": 5, r"re:layer\.0\.output\.dense": 2},
        alphas={"ff.w2": 4},
    )
    query, w2 = "encoder.layer.{}.attention.self.query", "encoder.layer.{}.output.dense"
    expected = {query.format(0): 3, query.format(1): 5, w2.format(0): 2}
    attached = method.attach(model)
    shapes = {place: attached.state_dict()[f"{place}.lora_A"].shape[0] for place in attached.places}
    assert shapes == {**expected, w2.format(1): 8}
    settings = method.settings(model)
    assert settings["ranks"] == expected
    assert settings["alphas"] == {w2.format(0): 4, w2.format(1): 4}
    assert [site.scale for site in attached.sites] == [16 / 3, 4 / 2, 16 / 5, 4 / 8]
    assert LoRA.from_settings(settings).shapes(model) == method.shapes(model)


def test_a_rank_for_a_place_without_a_delta_is_refused(tiny_model):
    with pytest.raises(DeltaError, match=r"'ff\.w1', where this delta does not go"):
        LoRA(ranks={"ff.w1": 2}).attach(tiny_model("bert"))
    with pytest.raises(DeltaError, match=r"no place named 'attn\.qq'"):
        LoRA(ranks={"attn.qq": 2}).attach(tiny_model("bert"))


def test_dropout_acts_in_training_only():
    model = nn.ModuleDict({"layer": nn.Linear(64, 3)})
    attached = LoRA(where="layer", dropout=0.5).attach(model)
    with torch.no_grad():
        attached.get_parameter("sites.0.lora_B").normal_()
    x = torch.randn(2, 64)
    model.train()
    assert not torch.equal(model["layer"](x), model["layer"](x))
    model.eval()
    assert torch.equal(model["layer"](x), model["layer"](x))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"ranks": {"x": 0}}])
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="must be"):
        LoRA(**wrong)


def test_unknown_settings_are_refused():
    with pytest.raises(DeltaError, match="no setting named 'rnk'"):
        LoRA.from_settings({"rnk": 3})


def test_the_start_is_drawn_like_that_of_peft(tiny_model):
    start = LoRA().draw(tiny_model("bert"))
    a = start["encoder.layer.0.attention.self.query.lora_A"]
    assert a.abs().max() <= 1 / 32**0.5 + 1e-3
    assert a.std() == pytest.approx(1 / (3 * 32) ** 0.5, rel=0.15)
    assert all((tensor == 0).all() for name, tensor in start.items() if name.endswith("lora_B"))


class Scaled(nn.Embedding):
    """Multiplies what it looks up, as the embeddings of BART and Gemma do."""

    embed_scale = 3.0

    def forward(self, ids):
        return super().forward(ids) * self.embed_scale


@torch.no_grad()
@pytest.mark.parametrize("kind", [nn.Embedding, Scaled])
def test_an_embedding_looks_up_the_changed_weight(kind):
    model, ids = nn.ModuleDict({"tokens": kind(7, 4)}), torch.tensor([[1, 6], [6, 0]])
    before = model["tokens"](ids)
    method = LoRA(where="tokens", rank=2, alpha=3)
    attached = method.attach(model)
    assert torch.equal(model["tokens"](ids), before)
    assert attached.state_dict()["tokens.lora_B"].any()
    a, b = torch.randn(2, 7), torch.randn(4, 2)
    attached.load_state_dict({"tokens.lora_A": a, "tokens.lora_B": b})
    scale = getattr(model["tokens"], "embed_scale", 1)
    expected = (model["tokens"].weight + 3 / 2 * (b @ a).T)[ids] * scale
    assert torch.allclose(model["tokens"](ids), expected, atol=1e-5)
    attached.merge()
    assert torch.allclose(model["tokens"](ids), expected, atol=1e-5)
    assert method.settings(model)["embeddings"] == ["tokens"]
    assert LoRA.from_settings(method.settings(model)).settings(model) == method.settings(model)


def test_what_counts_positions_by_itself_is_no_embedding_of_ids(tiny_model):
    with pytest.raises(DeltaError, match="embed_positions"):
        LoRA(where="encoder.embed_positions").attach(tiny_model("bart"))


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_the_gradient_at_an_embedding_is_that_of_its_weight(arch, tiny_backbone):
    backbone = tiny_backbone(arch)
    encoded = backbone.encode(tiny.sentiment_rows(4))
    places = LoRA(where="embeddings").places(backbone.model)
    total = {}

    def add(pairs):
        for place, (g, x) in pairs.items():
            total[place] = total.get(place, 0) + (x.T @ g)

    weight_gradients(backbone, places, encoded, add)
    # A LoRA of full rank, whose B is the unit matrix and whose A is zero: the gradient of A is that of the weight.
    method = LoRA(where="embeddings", rank=32, alpha=32)
    tensors = {
        name: torch.zeros(shape) if name.endswith("A") else torch.eye(32)
        for name, shape in method.shapes(backbone.model).items()
    }
    expected = tensor_gradients(backbone, method, tensors, encoded)
    for place in places:
        assert total[place].abs().max() > 1e-6
        assert torch.allclose(total[place].T, expected[f"{place}.lora_A"], atol=1e-5)


@pytest.mark.parametrize("name", ["gradient:first-order", "gradient:alignment", "parameters:cosine"])
def test_a_lora_on_embeddings_is_scored_like_any_other(name, tiny_backbone):
    backbone, method = tiny_backbone("bert"), LoRA(where=("embeddings", "attn.q"), rank=2)
    task, start = small.toy_target(8, 4), method.draw(backbone.model)
    modules = [small.trained_module(backbone, method, task, start, steps, None) for steps in (1, 3)]
    modules = [Module.new(module.card, module.tensors(), module.signature, start) for module in modules]
    values = score(task, modules, backbone, method, name, include_own=True).values
    assert all(math.isfinite(value) for value in values)
    if name == "gradient:alignment":  # they were trained on the target itself
        assert values == pytest.approx([1, 1])
    else:
        assert values[0] != values[1]


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_peft_reads_and_writes_embeddings_and_the_dropout(arch, tmp_path, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    method = LoRA(where=("embeddings", "attn.q"), rank=4, alpha=12, dropout=0.25)
    attached = method.attach(model)
    tensors = disturbed(attached)
    expected = outputs(model, inputs)
    attached.detach()
    peft_format.write(tmp_path, "lora", method.settings(model), tensors, arch, kind="encoder")
    theirs = peft.PeftModel.from_pretrained(tiny_model(arch), str(tmp_path)).eval()
    assert theirs.peft_config["default"].lora_dropout == 0.25
    assert torch.allclose(outputs(theirs, inputs), expected, atol=1e-5)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    _, settings, found = peft_format.read(tmp_path / "theirs", list(named_modules(model)))
    assert settings["dropout"] == 0.25
    assert settings["embeddings"] == method.settings(model)["embeddings"]
    Delta(LoRA.from_settings(settings), dict(found)).attach(model)
    assert torch.equal(outputs(model, inputs), expected)


def test_dropout_is_of_training_alone(tiny_backbone):
    backbone = tiny_backbone("bert")
    encoded = backbone.encode(tiny.sentiment_rows(8))
    start, settings = LoRA().draw(backbone.model), TuneSettings(steps=2)
    tuned = [
        tune(backbone, LoRA(dropout=dropout), encoded, tensors=start, settings=settings).tensors
        for dropout in (0.0, 0.5)
    ]
    assert any(not torch.equal(tuned[0][name], tuned[1][name]) for name in tuned[0])
    losses = []
    for dropout in (0.0, 0.5):
        with backbone.use(LoRA(dropout=dropout), tuned[1]):
            losses.append(backbone.loss(encoded))
    assert torch.equal(*losses)
