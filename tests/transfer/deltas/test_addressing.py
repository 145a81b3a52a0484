from __future__ import annotations

import architectures
import pytest
import torch

from transfer.deltas import Adapter, LoRA, Prefix, structure
from transfer.deltas.addressing import find_places
from transfer.errors import ConfigError, DeltaError

QUERY = "encoder.layer.{}.attention.self.query"
SELF, CROSS = "layer.0.SelfAttention", "layer.1.EncDecAttention"


def test_common_names_and_ends_of_names_mix_in_model_order(tiny_model):
    places = find_places(tiny_model("bert"), ("ff.w2", "self.query"))
    assert places == [
        f"encoder.layer.{layer}.{part}" for layer in (0, 1) for part in ("attention.self.query", "output.dense")
    ]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("encoder.block.0.attn.v", [f"encoder.block.0.{SELF}.v"]),
        ("decoder.block.*.attn.v", [f"decoder.block.{i}.{SELF}.v" for i in (0, 1)]),
        ("block.1.attn.v", [f"{half}.block.1.{SELF}.v" for half in ("encoder", "decoder")]),
        ("decoder.crossattn.q", [f"decoder.block.{i}.{CROSS}.q" for i in (0, 1)]),
        ("decoder.block.1", ["decoder.block.1"]),
        ("head", ["lm_head"]),
        # Names of modules, whole or from a dot on
        (f"block.0.{CROSS}", [f"decoder.block.0.{CROSS}"]),
        ("encoder.block.*.layer.0.layer_norm", [f"encoder.block.{i}.layer.0.layer_norm" for i in (0, 1)]),
        # Layers
        ("attn.q[0]", [f"{half}.block.0.{SELF}.q" for half in ("encoder", "decoder")]),
        ("decoder.attn.q[0:2]", [f"decoder.block.{i}.{SELF}.q" for i in (0, 1)]),
        ("decoder.block.*.attn.q[-1]", [f"decoder.block.1.{SELF}.q"]),
        ("EncDecAttention.o[1:]", [f"decoder.block.1.{CROSS}.o"]),
        ("encoder.block[::2]", ["encoder.block.0"]),
        ("decoder.attn.q[0-5]", [f"decoder.block.{i}.{SELF}.q" for i in (0, 1)]),
        ("decoder.attn.q[-1,0]", [f"decoder.block.{i}.{SELF}.q" for i in (0, 1)]),
        ("decoder.block.0-1.attn.q", [f"decoder.block.{i}.{SELF}.q" for i in (0, 1)]),
        ("decoder.block[1:].attn.q", [f"decoder.block.1.{SELF}.q"]),
        ("block.1-1.layer.0.SelfAttention.k", [f"{half}.block.1.{SELF}.k" for half in ("encoder", "decoder")]),
        # The output projection by its short name
        ("encoder.attn.o", [f"encoder.block.{i}.{SELF}.o" for i in (0, 1)]),
        ("decoder.block.0.crossattn.o", [f"decoder.block.0.{CROSS}.o"]),
        # Expressions: from a dot on, or the whole name; of modules before common names
        (r"re:decoder\..*\.(q|v)", [f"decoder.block.{i}.{a}.{p}" for i in (0, 1) for a in (SELF, CROSS) for p in "qv"]),
        (
            r"re:block\.1\.layer\.0\.SelfAttention\.[qk]",
            [f"{h}.block.1.{SELF}.{p}" for h in ("encoder", "decoder") for p in "qk"],
        ),
        (r"re:decoder\.block\.\d+\.ff\.w2", [f"decoder.block.{i}.layer.2.DenseReluDense.wo" for i in (0, 1)]),
    ],
)
def test_a_name_means_these_places(name, places, tiny_model):
    assert find_places(tiny_model("t5"), (name,)) == places


@pytest.mark.parametrize("name", ["re:uery", "re:layer.0", "uery", "[0:2]", "0-1"])
def test_names_and_expressions_begin_at_a_dot_and_end_at_the_end(name, tiny_model):
    if name == "re:layer.0":  # ends at a whole name, which is the block's
        assert find_places(tiny_model("bert"), (name,)) == ["encoder.layer.0"]
        return
    with pytest.raises(DeltaError, match="no place named"):
        find_places(tiny_model("bert"), (name,))


def test_common_names_come_before_names_of_modules(tiny_model):
    # GPT-NeoX and Llama have modules that end in `norm` at the top; `norm` means those of attention and feed-forward.
    model = tiny_model("llama")
    assert find_places(model, ("norm",)) == sorted(
        structure(model)["attn.norm"] + structure(model)["ff.norm"], key=list(dict(model.named_modules())).index
    )
    assert find_places(model, ("model.norm",)) == ["model.norm"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (("encoder",), ["decoder.block.0", "decoder.block.1"]),
        (("decoder.block.1", "encoder.block.0"), ["encoder.block.1", "decoder.block.0"]),
        (("block[0]",), ["encoder.block.1", "decoder.block.1"]),
        (("re:encoder.*",), ["decoder.block.0", "decoder.block.1"]),
        (("decoder.attn[1]", "encoder.attn.v"), ["encoder.block.0", "encoder.block.1", "decoder.block.0"]),
    ],
)
def test_what_is_excluded_goes_with_all_that_is_inside(exclude, left, tiny_model):
    model = tiny_model("t5")
    assert find_places(model, ("attn.q",), exclude) == [f"{block}.{SELF}.q" for block in left]
    assert LoRA(where=("attn.q",), exclude=exclude).places(model) == [f"{block}.{SELF}.q" for block in left]


def test_a_part_is_excluded_where_it_is_no_module_of_its_own(tiny_model):
    # BERT's feed-forward layers stand in two modules, and its output projection outside of the attention module.
    model = tiny_model("bert")
    assert Adapter(exclude="ff").places(model) == structure(model)["attn.proj"]
    assert Adapter(exclude="attn").places(model) == structure(model)["ff.w2"]


def test_excluding_everything_or_nothing_is_refused(tiny_model):
    with pytest.raises(DeltaError, match=r"exclude=\('attn',\) leaves no place"):
        LoRA(exclude="attn").attach(tiny_model("bert"))
    with pytest.raises(DeltaError, match="no place named 'decoder'"):
        LoRA(exclude="decoder").attach(tiny_model("bert"))


def test_exclude_is_on_the_card_only_where_it_is_set(tiny_model):
    model = tiny_model("bert")
    assert "exclude" not in LoRA().settings(model)
    settings = LoRA(exclude="block[0]").settings(model)
    assert (settings["exclude"], settings["places"]) == (
        ["block[0]"],
        [QUERY.format(1), QUERY.format(1)[:-5] + "value"],
    )
    assert LoRA.from_settings(settings).settings(model) == settings
    # Places decide what a start looks like, not the words they were chosen by.
    chosen = LoRA(where=("attn.q[1]", "attn.v[1]"))
    assert LoRA(exclude="block[0]").start_settings(model) == chosen.start_settings(model)


@pytest.mark.parametrize(
    ("wrong", "close"),
    [
        ("attn.qq", "attn.q"),
        ("qury", "query"),
        ("self.quary", "self.query"),
        ("encoder.blok.1.attn.q", "encoder.block.1.attn.q"),
        ("decoder.attn.v", "encoder.attn.v"),
        ("attn.vv[0:1]", "attn.v"),
        ("q_proj", "attn.q"),  # as other models call it
        ("attention.query", "attn.q"),
        ("self_attn.o_proj", "attn.proj"),
    ],
)
def test_an_unknown_name_shows_the_closest(wrong, close, tiny_model):
    with pytest.raises(DeltaError, match=f"closest:.*{close}"):
        LoRA(where=(wrong,)).attach(tiny_model("bert"))


def test_a_name_far_from_all_shows_the_common_ones(tiny_model):
    with pytest.raises(DeltaError, match=r"common names embeddings, block, attn, attn\.q"):
        LoRA(where=("0123456789",)).attach(tiny_model("bert"))


@pytest.mark.parametrize(
    ("name", "found"), [("attn.q[2]", "encoder: 0 to 1"), ("attn.q[5:]", "encoder: 0 to 1"), ("pooler[0]", "outside")]
)
def test_layers_that_are_not_there_show_those_that_are(name, found, tiny_model):
    with pytest.raises(DeltaError, match=f"has no layers .*\n.*{found}"):
        LoRA(where=name).places(tiny_model("bert"))


def test_layers_that_share_their_weights_are_said_to():
    with torch.device("meta"):
        model = architectures.MAKERS["albert"]()
    with pytest.raises(DeltaError, match=r"encoder: 0 to 0, which the model runs 2 times .* one place"):
        LoRA(where="attn.q[1]").places(model)


@pytest.mark.parametrize("name", ["attn.q[]", "attn.q[a]", "attn.q[2-1]", "attn.q[0,]", "attn.q[0:2:0]", "attn.q[-]"])
def test_layers_that_cannot_be_read_are_refused(name, tiny_model):
    with pytest.raises(DeltaError, match=r"cannot read the layers .*\n.*'attn\.q\[0:3\]' for the first three"):
        LoRA(where=name).places(tiny_model("bert"))


def test_an_expression_that_is_none_says_why(tiny_model):
    with pytest.raises(DeltaError, match=r"is no regular expression\nfound: .*unterminated"):
        LoRA(where="re:layer.(0").places(tiny_model("bert"))


def test_a_single_name_needs_no_tuple(tiny_model):
    assert LoRA(where="attn.q").places(tiny_model("bert")) == [QUERY.format(i) for i in (0, 1)]


def test_no_names_are_refused(tiny_model):
    with pytest.raises(DeltaError, match="where= is empty"):
        LoRA(where=()).attach(tiny_model("bert"))
    with pytest.raises(ConfigError, match="where= takes names of places"):
        LoRA(where=(3,))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="exclude= takes names of places"):
        LoRA(exclude=(3,))  # type: ignore[arg-type]


def test_a_plain_model_is_addressed_by_its_own_names():
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(4, 6), "second": torch.nn.Linear(6, 2)})
    attached = LoRA(where=("second",), rank=2).attach(model)
    assert attached.places == ["second"]
    assert attached.n_parameters == 2 * 6 + 2 * 2


def test_layers_of_a_plain_model_are_the_numbers_in_its_names():
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(4)))
    assert find_places(model, ("*.0[1:3]",)) == ["1.0", "2.0"]


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (LoRA(where="attn"), "BertSelfAttention"),
        (Adapter(where="block"), "BertLayer"),
        (Prefix(where="ff.w2"), "Linear"),
    ],
)
def test_a_place_that_cannot_take_the_method_says_why(method, what, tiny_model):
    model = tiny_model("bert")
    with pytest.raises(DeltaError, match=f"cannot be put on .*\n.*{what}"):
        method.attach(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_place_that_holds_layers_names_them(tiny_model):
    with pytest.raises(DeltaError, match=r"try: .*'query', 'key', 'value'"):
        LoRA(where="attn").attach(tiny_model("bert"))


def test_exact_places_must_all_be_there(tiny_model):
    with pytest.raises(DeltaError, match=r"no place named 'encoder\.layer\.7\.attention\.self\.query'"):
        LoRA(at=("encoder.layer.7.attention.self.query",)).attach(tiny_model("bert"))


@torch.no_grad()
def test_a_sequential_runs_past_the_delta_on_it():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.randn(3, 4)
    before = model(x)
    attached = LoRA(rank=1, where=("0", "2")).attach(model)
    assert torch.equal(model(x), before)
    for tensor in attached.parameters():
        tensor.fill_(0.5)
    assert not torch.allclose(model(x), before)
    attached.detach()
    assert torch.equal(model(x), before)
