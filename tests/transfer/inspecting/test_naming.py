"""From places back to names: what is named is just what was given."""

from __future__ import annotations

import random

import architectures
import pytest
import tiny
from torch import nn

from transfer.backbones.outline import build_outline
from transfer.deltas import LoRA, structure
from transfer.deltas.addressing import find_places
from transfer.deltas.modules import named_modules
from transfer.errors import DeltaError
from transfer.inspecting import shortest_where


@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2", "llama", "mixtral", "albert", "clip", "whisper", "mpnet"])
def test_any_choice_of_places_is_named_exactly(arch):
    model = build_outline(architectures.build(arch).config, arch)
    modules = [name for name in named_modules(model) if name]
    generator = random.Random(arch)
    for size in (1, 2, 3, 7, len(modules) // 2, len(modules)):
        places = generator.sample(modules, size)
        where = shortest_where(model, places)
        assert set(find_places(model, where)) == set(places)
        assert len(where) <= size


def bert(layers):
    config = architectures.build("bert").config
    config.num_hidden_layers = layers
    return build_outline(config, "bert")


def test_common_names_are_taken_where_they_say_it_all():
    model, t5 = bert(6), tiny.tiny_model("t5")
    common = structure(model)
    assert shortest_where(model, [*common["attn.v"], *common["attn.q"]]) == ("attn.q", "attn.v")
    assert shortest_where(t5, LoRA().places(t5)) == ("attn.q", "attn.v")
    decoder = [place for place in structure(t5)["attn.q"] if place.startswith("decoder")]
    assert shortest_where(t5, decoder) == ("decoder.attn.q",)


def test_some_layers_are_a_slice():
    model = bert(6)
    common = structure(model)
    assert shortest_where(model, common["attn.q"][:3]) == ("attn.q[0:3]",)
    assert shortest_where(model, common["attn.q"][::2]) == ("attn.q[0:5:2]",)
    assert shortest_where(model, [common["ff.w2"][5]]) == ("ff.w2[5]",)


def test_what_has_no_common_name_is_named_by_its_end():
    model = bert(2)
    assert shortest_where(model, ["pooler.dense"]) == ("pooler.dense",)
    assert shortest_where(model, ["embeddings.position_embeddings"]) == ("position_embeddings",)


class Twice(nn.Module):
    """Two modules of which the name of one ends as that of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2, 2)
        self.other = nn.ModuleDict({"mix": nn.Linear(2, 2)})


def test_a_name_that_is_the_end_of_another_is_told_apart():
    where = shortest_where(Twice(), ["mix"])
    assert find_places(Twice(), where) == ["mix"]
    assert where == (r"re:\Amix",)


def test_no_places_and_unknown_places_are_refused():
    with pytest.raises(DeltaError, match="no places are given"):
        shortest_where(Twice(), [])
    with pytest.raises(DeltaError, match="no place named 'mox'"):
        shortest_where(Twice(), ["mox"])
