"""The tree of a model: what is counted, what is folded, and how it reads as text and as HTML."""

from __future__ import annotations

import copy
import html.parser
import pickle

import architectures
import pytest
import tiny
import torch
from rich.console import Console
from torch import nn

from transfer.backbones.outline import build_outline
from transfer.deltas import METHODS, Adapter, BitFit, LoRA, Prefix, SoftPrompt, structure
from transfer.deltas.tree import Counts, plan
from transfer.deltas.tree_rows import ranges, rows_of
from transfer.deltas.tree_text import TIMES, Look
from transfer.errors import DeltaError


@pytest.fixture(scope="module")
def outlines():
    """One model of every architecture, without weights."""
    return {arch: build_outline(architectures.build(arch).config, arch) for arch in ("t5", "clip", "albert", "whisper")}


class Strange(nn.Module):
    """Names that a page must not take for its own language."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("<b>bold</b>", nn.Linear(2, 3))
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False), nn.Linear(2, 2)])
        self.quiet = nn.Dropout()


def test_counts_agree_with_torch():
    model = tiny.tiny_model("t5")  # its head is tied to its embeddings
    attached = LoRA(rank=2).attach(model)
    model.encoder.block[0].layer[0].SelfAttention.q.weight.requires_grad_(True)
    counts = structure(model).tree.counts
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts.trainable == 32 * 32
    assert counts.delta == attached.n_parameters == trained - 32 * 32
    assert counts.trained == trained
    assert counts.everything == sum(p.numel() for p in model.parameters())
    attached.detach()
    assert structure(model).tree.counts == Counts(trainable=counts.backbone, trained=counts.backbone)


def test_every_module_and_every_parameter_is_in_the_tree_once(outlines):
    for model in outlines.values():
        nodes = list(structure(model).tree.walk())
        assert [node.name for node in nodes] == [name for name, _ in model.named_modules()]
        own = [f"{n.name}.{p.name}".lstrip(".") for n in nodes for p in n.parameters if not p.tied]
        assert own == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("name", METHODS.names())
def test_a_planned_delta_looks_as_it_does_attached(name):
    model = tiny.tiny_model("bert")
    planned = structure(model, METHODS.get(name)())
    assert planned.tree.counts.delta
    assert [module for module in model.modules() if type(module).__name__ == "Attached"] == []
    model.requires_grad_(False)
    planned = structure(model, METHODS.get(name)())
    METHODS.get(name)().attach(model)
    assert structure(model).text() == planned.text()
    assert structure(model).tree == planned.tree


def test_deltas_on_an_inner_model_and_on_one_place_are_all_seen():
    model = tiny.tiny_model("llama")
    LoRA(rank=2, where="attn.q").attach(model.model)
    Adapter(bottleneck=2, where="attn.q").attach(model)
    seen = {node.name: [laid.method for laid in node.deltas] for node in structure(model).tree.walk() if node.deltas}
    # The adapter is on the whole model and comes first in its list of modules; what counts is that both are there.
    assert {name: sorted(methods) for name, methods in seen.items()} == {
        f"model.layers.{i}.self_attn.q_proj": ["adapter", "lora"] for i in range(2)
    }


def test_a_delta_that_is_frozen_or_all_that_trains_is_counted_so():
    model = tiny.tiny_model("bert")
    attached = LoRA(rank=2).attach(model)
    for some, trained in ((attached, 0), (model, model.num_parameters())):
        some.requires_grad_(trained > 0)
        counts = structure(model).tree.counts
        assert (counts.delta, counts.trained) == (attached.n_parameters, trained)
        text = str(structure(model))
        assert text.count("lora_A 2") == 2  # of layers that are alike
        assert f"trained   {trained:,} of {model.num_parameters():,}" in text


def test_a_plan_that_no_place_can_take_is_refused():
    model = tiny.tiny_model("bert")
    with pytest.raises(DeltaError, match="a prefix cannot be put on"):
        structure(model, Prefix(where=("ff.w1",)))
    with pytest.raises(DeltaError, match="does not read its input through"):
        structure(model, SoftPrompt(where=("position_embeddings",)))


def test_layers_alike_are_one_row_and_those_that_differ_have_their_own():
    model = Strange()
    labels = [row.label for row in rows_of(structure(model).tree).walk()]
    assert labels == ["", "<b>bold</b>", "layers.0-1,3", "layers.2"]
    assert [row.label for row in rows_of(structure(model).tree, everything=True, fold=False).walk()][-1] == "quiet"
    model.layers[1].weight.requires_grad_(False)
    LoRA(rank=1, where=("layers.0",)).attach(model)
    labels = [row.label for row in rows_of(structure(model).tree).walk()]
    assert labels == ["", "<b>bold</b>", "layers.0", "layers.1,3", "layers.2"]


def test_rows_add_up_to_the_model(outlines):
    for model in outlines.values():
        for row in rows_of(structure(model, LoRA(rank=1)).tree).walk():
            own = Counts.total([*(n.own for n in row.nodes), *(child.counts for child in row.children)])
            assert own == row.counts


def test_numbers_of_layers_are_ranges():
    assert [ranges(numbers) for numbers in ([4], [0, 1, 2], [0, 2, 3, 9])] == ["4", "0-2", "0,2-3,9"]


@pytest.mark.parametrize("width", [80, 48])
def test_no_line_is_wider_than_the_page(outlines, width):
    for arch, model in outlines.items():
        for method in (None, LoRA(), BitFit()):
            lines = structure(model, method).text(Look(width=width, everything=arch == "t5")).splitlines()
            assert max(map(len, lines)) <= width
            assert width < 80 or len(lines) > 20


def test_the_text_says_what_is_there():
    model = tiny.tiny_model("bert").requires_grad_(False)
    text = str(structure(model, LoRA(rank=4, where=("attn.q", "attn.v[0]"))))
    assert "query  Linear 32→32" in text
    assert "attn.proj" in text
    assert text.count(f"lora_A 4{TIMES}32, lora_B 32{TIMES}4") == 3
    assert "+ delta        768    2.23%  lora at 3 places" in text
    assert "encoder.layer.0" not in text  # names are those in the row above
    # The layers differ in their deltas, so neither stands for the other.
    assert "layer.0 " in text
    assert "layer.1 " in text
    assert structure(model).text(Look(depth=0)).splitlines()[1].split() == ["BertModel", "33,632", "100.0%"]


def test_plain_letters_say_the_same():
    model = tiny.tiny_model("bert")
    plain = structure(model, LoRA()).text(Look(plain=True))
    assert plain.isascii()
    assert len(plain.splitlines()) == len(str(structure(model, LoRA())).splitlines())


def test_colours_are_on_a_terminal_only():
    seen = structure(tiny.tiny_model("bert"), LoRA())
    for terminal, sign in ((True, True), (False, False)):
        console = Console(force_terminal=terminal, width=80, color_system="standard" if terminal else None, record=True)
        with console.capture() as capture:
            console.print(seen)
        assert ("\x1b[" in capture.get()) is sign
    assert "\n".join(line.rstrip() for line in capture.get().splitlines()) == str(seen)


class _Texts(html.parser.HTMLParser):
    """Tags and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_html_is_well_formed_and_names_are_escaped():
    page = _Texts()
    page.feed(structure(Strange(), LoRA(rank=1, where=("layers.0",)))._repr_html_())
    assert page.open == []
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert any("<b>bold</b>" in text for text in page.texts)
    assert any(f"lora_A 1{TIMES}2, lora_B 2{TIMES}1" in text for text in page.texts)


def test_a_structure_is_a_dict_that_can_be_copied():
    seen = structure(tiny.tiny_model("bert"))
    assert seen == dict(seen)
    for other in (copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))):
        assert other == seen
        assert str(other) == str(seen)


def test_a_picture_holds_no_tensor_and_does_not_change():
    model = tiny.tiny_model("bert")
    seen = structure(model)
    before = str(seen)
    LoRA().attach(model)
    assert str(seen) == before
    assert b"torch" not in pickle.dumps(seen)


def test_modules_that_learn_their_sizes_later_are_shown():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    assert structure(model).tree.counts.everything == 10
    assert "LazyLinear" in str(structure(model))


def test_models_on_meta_need_no_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100_000, 100_000))
    assert "10.00 B" in str(structure(model, LoRA(where=("0",))))


def test_of_a_fused_layer_the_rows_that_learn_are_counted(tiny_model):
    model = tiny_model("gpt2")
    method = LoRA(where="attn.q")
    planned = sum(one.trained for one in plan(method, model).values())
    attached = method.attach(model)
    rows = sum(int((site._rows["lora_B"]).sum()) for site in attached.sites)
    ranks = sum(site.lora_A.numel() for site in attached.sites)
    assert planned == ranks + rows * method.rank
    assert structure(model).tree.counts.trained == planned
