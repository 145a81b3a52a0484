from __future__ import annotations

import pytest
import torch

from transfer.deltas import LoRA, Prefix
from transfer.deltas.addressing import find_places
from transfer.errors import ConfigError, DeltaError


def test_common_names_and_ends_of_names_mix_in_model_order(tiny_model):
    places = find_places(tiny_model("bert"), ("ff.w2", "self.query"))
    assert places == [
        f"encoder.layer.{layer}.{part}" for layer in (0, 1) for part in ("attention.self.query", "output.dense")
    ]


def test_an_end_must_begin_at_a_dot(tiny_model):
    with pytest.raises(DeltaError, match="no place named 'uery'"):
        find_places(tiny_model("bert"), ("uery",))


@pytest.mark.parametrize(("wrong", "close"), [("attn.qq", "attn.q"), ("qury", "query"), ("self.quary", "self.query")])
def test_an_unknown_name_shows_the_closest(wrong, close, tiny_model):
    with pytest.raises(DeltaError, match=f"closest:.*{close}"):
        LoRA(where=(wrong,)).attach(tiny_model("bert"))


def test_a_name_far_from_all_shows_the_common_ones(tiny_model):
    with pytest.raises(DeltaError, match=r"common names attn, attn\.k"):
        LoRA(where=("0123456789",)).attach(tiny_model("bert"))


def test_a_single_name_needs_no_tuple(tiny_model):
    assert LoRA(where="attn.q").places(tiny_model("bert")) == [
        f"encoder.layer.{i}.attention.self.query" for i in (0, 1)
    ]


def test_no_names_are_refused(tiny_model):
    with pytest.raises(DeltaError, match="where= is empty"):
        LoRA(where=()).attach(tiny_model("bert"))
    with pytest.raises(ConfigError, match="names of places"):
        LoRA(where=(3,))  # type: ignore[arg-type]


def test_a_plain_model_is_addressed_by_its_own_names():
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(4, 6), "second": torch.nn.Linear(6, 2)})
    attached = LoRA(where=("second",), rank=2).attach(model)
    assert attached.places == ["second"]
    assert attached.n_parameters == 2 * 6 + 2 * 2


@pytest.mark.parametrize(
    ("method", "what"), [(LoRA(where="attn"), "BertSelfAttention"), (Prefix(where="ff.w2"), "Linear")]
)
def test_a_place_that_cannot_take_the_method_says_why(method, what, tiny_model):
    model = tiny_model("bert")
    with pytest.raises(DeltaError, match=f"cannot be put on .*\n.*{what}"):
        method.attach(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_exact_places_must_all_be_there(tiny_model):
    with pytest.raises(DeltaError, match=r"no place named 'encoder\.layer\.7\.attention\.self\.query'"):
        LoRA(at=("encoder.layer.7.attention.self.query",)).attach(tiny_model("bert"))
