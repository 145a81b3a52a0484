from __future__ import annotations

import copy
import pickle

import architectures
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2Model

from transfer.deltas import Adapter, BitFit, Delta, LoRA, Prefix, structure
from transfer.deltas.addressing import find_parts
from transfer.deltas.common_structure import common_names
from transfer.deltas.fused import fused_at, rows_of_parts
from transfer.deltas.modules import named_modules
from transfer.errors import DeltaError

C_ATTN = "transformer.h.0.attn.c_attn"
FUSED = ["gpt2", "openai-gpt", "gpt-neox", "bloom", "phi3", "modernbert", "deberta", "mpt", "persimmon"]


def first_projection_input(arch: str, model: nn.Module) -> torch.Tensor:
    """What the first attention hands to its output projection: the mixed values."""
    seen = []
    layer = model.get_submodule(structure(model)["attn.proj"][0])
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    architectures.run(arch, model)
    handle.remove()
    return seen[0]


def silenced(arch: str, part: str) -> torch.Tensor:
    """The mixed values of a model whose first layer gives zero for one part."""
    model = architectures.build(arch)
    modules = named_modules(model)
    place = structure(model)[part][0]
    together = fused_at(model)[place]
    assert together == ("attn.q", "attn.k", "attn.v")
    rows = rows_of_parts(modules, place, (part,), together)
    with torch.no_grad():
        weight = modules[place].weight
        (weight.T if hasattr(modules[place], "nf") else weight)[rows] = 0
        if getattr(modules[place], "bias", None) is not None:
            modules[place].bias[rows] = 0
        owner = modules[place.rpartition(".")[0]]
        for name in ("q_bias", "v_bias"):  # DeBERTa adds these by itself, and looks at positions besides
            if hasattr(owner, name):
                getattr(owner, name).zero_()
        if hasattr(owner, "relative_attention"):
            owner.relative_attention = False
        return first_projection_input(arch, model)


@pytest.mark.parametrize("arch", FUSED)
def test_the_rows_of_a_part_are_what_the_model_reads_as_that_part(arch):
    # Without values nothing is mixed; with queries or with keys of zero every score is the same.
    assert (silenced(arch, "attn.v") == 0).all()
    by_query, by_key = silenced(arch, "attn.q"), silenced(arch, "attn.k")
    assert torch.allclose(by_query, by_key, atol=1e-6)
    assert by_query.abs().max() > 1e-3
    assert not torch.allclose(by_query, first_projection_input(arch, architectures.build(arch)), atol=1e-6)


def test_fewer_heads_for_keys_and_values_have_fewer_rows():
    with torch.device("meta"):
        model = architectures.MAKERS["phi3"]()
    place = structure(model)["attn.q"][0]
    counts = {p: int(rows_of_parts(named_modules(model), place, (p,), fused_at(model)[place]).sum()) for p in PARTS}
    assert counts == {"attn.q": 16, "attn.k": 8, "attn.v": 8}


PARTS = ("attn.q", "attn.k", "attn.v")


# The layer's output in three, by the calls with which the attention of the model cuts it apart.
CUTS = {
    "mpt": lambda attention, mixed: mixed.chunk(3, dim=2),
    "persimmon": lambda attention, mixed: attention._split_heads(mixed),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("arch", CUTS)
def test_a_lora_on_a_part_changes_what_the_model_takes_for_that_part_alone(arch, part):
    model, ids = architectures.build(arch), torch.arange(5, 14)[None]
    place = structure(model)["attn.q"][0]
    attention, seen = model.get_submodule(place.rpartition(".")[0]), []

    def cut() -> tuple[torch.Tensor, ...]:
        """Query, key and value of the first layer, then its keys and values as they come into the cache."""
        handle = model.get_submodule(place).register_forward_hook(lambda module, args, mixed: seen.append(mixed))
        with torch.no_grad():
            cached = model(ids, use_cache=True).past_key_values.layers[0]
        handle.remove()
        return *CUTS[arch](attention, seen.pop()), cached.keys, cached.values

    before = cut()
    attached = LoRA(where=f"{part}[0]").attach(model)
    assert attached.places == [place]
    optimizer = torch.optim.AdamW(attached.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(ids).logits.square().mean().backward()
        optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, cut(), strict=True)]
    assert changed == [part == other for other in (*PARTS, "attn.k", "attn.v")]


@torch.no_grad()
def test_the_halves_of_a_gated_layer_are_told_apart():
    model = architectures.build("phi3")
    mlp, place = model.model.layers[0].mlp, "model.layers.0.mlp.gate_up_proj"
    x, modules = torch.randn(2, 16), named_modules(model)
    gate, up = (
        modules[place](x)[:, rows_of_parts(modules, place, (p,), ("ff.w1", "ff.w3"))] for p in ("ff.w1", "ff.w3")
    )
    assert torch.allclose(mlp.down_proj(up * nn.functional.silu(gate)), mlp(x), atol=1e-6)


@pytest.mark.parametrize(
    ("where", "exclude", "parts"),
    [
        ("attn.q", (), {"attn.q"}),
        (("attn.q", "attn.v"), (), {"attn.q", "attn.v"}),
        (("attn.q", "attn.k", "attn.v"), (), set()),
        (("attn.q", "c_attn"), (), set()),
        ("c_attn", "attn.k", {"attn.q", "attn.v"}),
        (("attn.q", "attn.v"), "attn.v", {"attn.q"}),
    ],
)
def test_names_of_parts_and_of_the_layer_go_together(where, exclude, parts, tiny_model):
    method = LoRA(where=where, exclude=exclude)
    assert find_parts(tiny_model("gpt2"), method.where, method.exclude)[C_ATTN] == parts
    if exclude == "attn.v":
        with pytest.raises(DeltaError, match="leaves no place"):
            LoRA(where="attn.q", exclude=("attn.q",)).places(tiny_model("gpt2"))


@pytest.mark.parametrize("carried", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize(("method", "name"), [(LoRA, "lora_B"), (BitFit, "bitfit_bias")])
def test_only_the_part_that_was_asked_for_trains(carried, method, name, tiny_model, inputs_for, outputs):
    model = tiny_model("gpt2")
    method(where=("attn.q", "attn.v")).attach(model)
    model = carried(model)
    attached = model.delta_0
    optimizer = torch.optim.AdamW(attached.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        outputs(model, inputs_for("gpt2")).square().mean().backward()
        optimizer.step()
    query, key, value = attached.state_dict()[f"{C_ATTN}.{name}"].chunk(3)
    assert (key == 0).all()
    assert (query != 0).all()
    assert (value != 0).all()


@torch.no_grad()
def test_tensors_of_the_whole_layer_act_as_they_are(tiny_model, inputs_for, outputs, disturbed):
    # What trains is a matter of training: a module that was made on all three answers as it was made.
    model, inputs = tiny_model("gpt2"), inputs_for("gpt2")
    whole = LoRA(where="c_attn").attach(model)
    tensors = disturbed(whole)
    expected = outputs(model, inputs)
    whole.detach()
    LoRA(where="attn.q").attach(model, tensors)
    assert torch.equal(outputs(model, inputs), expected)


def test_parts_are_on_the_card_where_there_are_any(tiny_model):
    model = tiny_model("gpt2")
    settings = LoRA(where="attn.q[0]").settings(model)
    assert (settings["places"], settings["parts"]) == ([C_ATTN], {C_ATTN: ["attn.q"]})
    again = LoRA.from_settings(settings)
    assert again.settings(model) == settings
    attached = Delta(again, again.draw(model)).attach(model)
    model(torch.arange(5)[None]).logits.square().mean().backward()
    gradient = attached.get_parameter("sites.0.lora_B").grad
    assert gradient is not None
    assert (gradient[32:] == 0).all()
    assert (gradient[:32] != 0).any()
    for method in (LoRA(where="c_attn"), LoRA(where=PARTS), Adapter(), Prefix()):
        assert "parts" not in method.settings(model)
    assert "parts" not in LoRA().settings(tiny_model("bert"))


def test_a_method_that_acts_on_the_output_says_why_it_cannot_take_a_part(tiny_model):
    with pytest.raises(DeltaError, match=r"adapter cannot be put on attn\.q alone .*\n.*one layer.*\n.*'c_attn'"):
        Adapter(where="attn.q").attach(tiny_model("gpt2"))
    assert Adapter(where="c_attn").attach(tiny_model("gpt2")).places[0] == C_ATTN


def test_a_layout_that_is_not_known_is_said_so():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c_attn, self.c_proj = nn.Linear(8, 24), nn.Linear(8, 8)

    model = nn.ModuleList(nn.ModuleDict({"attn": Attention(), "mlp": nn.Linear(8, 8)}) for _ in range(2))
    with pytest.raises(
        DeltaError, match=r"attn\.q of '0\.attn\.c_attn' cannot be taken alone.*\n.*is not known.*\n.*c_attn"
    ):
        LoRA(where="attn.q").attach(model)
    assert LoRA().attach(model).detach().method.settings(model)["places"] == ["0.attn.c_attn", "1.attn.c_attn"]
    for where in ("c_attn", PARTS):
        assert LoRA(where=where).attach(model).detach().places == ["0.attn.c_attn", "1.attn.c_attn"]


def test_a_cross_attention_takes_its_queries_from_a_layer_of_their_own():
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=8, add_cross_attention=True)
    model = GPT2Model(config)
    place = "h.0.crossattention.c_attn"
    assert fused_at(model)[place] == ("crossattn.k", "crossattn.v")
    rows = rows_of_parts(named_modules(model), place, ("crossattn.v",), fused_at(model)[place])
    assert rows.tolist() == [False] * 16 + [True] * 16
    assert {c.place for c in common_names(model) if c.part == "crossattn.q"} == {"h.0.crossattention.q_attn"}
