"""The delta that is looked at: settings from text, and which places could take it."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import tiny

from transfer.deltas import METHODS, LoRA, ParallelAdapter, Prefix, structure
from transfer.deltas.modules import named_modules
from transfer.errors import ConfigError, DeltaError, UnknownNameError
from transfer.inspecting import choose, document, fitting
from transfer.inspecting.choosing import sizes_of


def test_settings_are_read_as_what_they_are():
    chosen = choose("lora", ["attn.q"], ["decoder"], {"rank": "4", "alpha": "0.5", "dropout": "0.1"})
    assert chosen == LoRA(rank=4, alpha=0.5, dropout=0.1, where=("attn.q",), exclude=("decoder",))
    chosen = choose("prefix", settings={"position_shift": "false", "reparameterisation": "12", "length": "3"})
    assert chosen == Prefix(position_shift=False, reparameterisation=12, length=3)
    chosen = choose("parallel-adapter", ["ff.w2[0,2]", "attn.proj"], settings={"inputs": "ff.w1[0,2], attn"})
    assert chosen == ParallelAdapter(where=("ff.w2[0,2]", "attn.proj"), inputs=("ff.w1[0,2]", "attn"))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("lora", {"rank": "x"}, "rank takes a whole number, got 'x'"),
        ("lora", {"rank": "0"}, "rank must be at least 1"),
        ("lora", {"alpha": "nan"}, "alpha takes a number"),
        ("lora", {"ranks": "4"}, "ranks cannot be set from text"),
        ("lora", {"where": "attn.q"}, "lora has no setting named 'where'"),
        ("prefix", {"position_shift": "perhaps"}, "position_shift takes true or false"),
    ],
)
def test_settings_that_cannot_be_are_explained(name, settings, said):
    with pytest.raises(ConfigError, match=said):
        choose(name, settings=settings)


def test_an_unknown_method_proposes_the_close_one():
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        choose("lorra")


def test_sizes_are_the_whole_numbers_of_a_method():
    assert sizes_of("lora") == {"rank": 8}
    assert sizes_of("bitfit") == {}
    for name in METHODS.names():
        assert set(sizes_of(name)) <= {field.name for field in fields(METHODS.get(name))}


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
@pytest.mark.parametrize("name", METHODS.names())
def test_a_place_fits_when_the_method_can_be_attached_there(name, arch):
    model = tiny.tiny_model(arch)
    method = METHODS.get(name)
    fits, refused = fitting(method(), model)
    assert fits.keys() | refused.keys() == named_modules(model).keys() - {""}
    assert fits.keys().isdisjoint(refused)
    assert set(method().places(model)) <= set(fits)
    assert all(refused.values())
    for place in [*list(fits)[:2], *list(refused)[:2]]:
        try:
            attached = method(at=(place,)).attach(model)
        except DeltaError:
            assert place in refused
        else:
            assert place in fits
            assert attached.n_parameters == fits[place].size
            attached.detach()


def test_the_document_is_json_and_says_what_is_there():
    model = tiny.tiny_model("t5").requires_grad_(False)
    method = LoRA(rank=2, where=("attn.q",))
    said = json.loads(json.dumps(document(structure(model, method), "tiny", method)))
    assert said["common"] == dict(structure(model))
    assert said["delta"]["places"] == structure(model)["attn.q"]
    assert said["delta"]["parameters"] == said["parameters"]["trained"] == method.attach(model).n_parameters
    assert [m["name"] for m in said["modules"]] == list(named_modules(model))
    head = said["modules"][-1]
    assert (head["name"], head["own"][0]["tied"]) == ("lm_head", "shared.weight")
    query = next(m for m in said["modules"] if m["deltas"])
    assert query["deltas"][0]["tensors"] == {"lora_A": [2, 32], "lora_B": [32, 2]}
    assert query["common"] == ["encoder.block.0.attn.q"]
    shallow = document(structure(model), "tiny", depth=1)
    assert [m["name"] for m in shallow["modules"]] == ["", "shared", "encoder", "decoder", "lm_head"]
    assert shallow["delta"] is None
