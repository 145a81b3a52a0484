"""Many modules on one backbone: each row is answered as by its own module alone."""

from __future__ import annotations

import pytest
import small
import tiny
import torch

from transfer.deltas import METHODS, Adapter, Delta, LoRA, Prefix
from transfer.errors import BackboneError, ConfigError, UnknownNameError
from zoo import FingerprintError

MODULES = ("lora", "prefix", None, "adapter", "wide", "lora", "prefix")  # of the rows


@pytest.fixture
def served(backbone):
    """Deltas by name, and the number of each in the order they are served in."""
    methods = {"lora": LoRA(), "adapter": Adapter(), "prefix": Prefix(length=4), "wide": LoRA(rank=12)}
    return {
        name: tiny.random_delta(method, backbone.model, seed) for seed, (name, method) in enumerate(methods.items())
    }


def one_by_one(backbone, served, call):
    """What `call(number of the row)` gives with the row's module alone on the backbone."""
    found = []
    for row, name in enumerate(MODULES):
        if name is None:
            found.append(call(row))
            continue
        with backbone.use(served[name]):
            found.append(call(row))
    return found


@pytest.mark.parametrize("backbone", tiny.ARCHITECTURES, indirect=True)
def test_each_row_is_scored_as_by_its_module_alone(backbone, served, mixed_rows):
    bare = backbone.choice_logits(mixed_rows)
    scored = one_by_one(backbone, served, lambda row: backbone.choice_logits([mixed_rows[row]])[0])
    losses = one_by_one(backbone, served, lambda row: backbone.loss([mixed_rows[row]])[0])
    texts = [row["input"] for row in mixed_rows]
    embedded = one_by_one(backbone, served, lambda row: backbone.embed([texts[row]])[0])
    with backbone.serve(served) as server:
        found = server.choice_logits(mixed_rows, MODULES)
        for row, wanted in enumerate(scored):
            assert torch.allclose(found[row, : len(wanted)], wanted, atol=1e-4)
            assert (found[row, len(wanted) :] == -torch.inf).all()
        assert torch.allclose(server.loss(mixed_rows, MODULES), torch.stack(losses), atol=1e-4, equal_nan=True)
        assert torch.allclose(server.embed(texts, MODULES), torch.stack(embedded), atol=1e-5)
        encoded = backbone.encode(mixed_rows)
        assert torch.equal(server.choice_logits(encoded, MODULES), found)
        assert all(row.module is None for row in encoded)
    assert not torch.allclose(found, bare, atol=1e-2)
    assert torch.equal(backbone.choice_logits(mixed_rows), bare)


@pytest.mark.parametrize("backbone", [*tiny.SEQ2SEQ, *tiny.CAUSAL], indirect=True)
def test_each_row_is_continued_as_by_its_module_alone(backbone, served, mixed_rows):
    wanted = one_by_one(backbone, served, lambda row: backbone.generate([mixed_rows[row]], max_new_tokens=6)[0])
    with backbone.serve(list(served.values())) as server:
        numbers = [None if name is None else list(served).index(name) for name in MODULES]
        assert server.generate(mixed_rows, numbers, max_new_tokens=6) == wanted


@pytest.mark.parametrize("backbone", ["bert"], indirect=True)
def test_a_choice_shared_by_rows_is_read_by_the_module_of_each(backbone, served):
    rows = [{"input": "text: a warm film", "choices": ["negative", "positive"]}] * 3
    with backbone.serve(served) as server:
        found = server.choice_logits(rows, ["lora", None, "adapter"])
        assert torch.allclose(found[1], backbone_alone(backbone, None, rows[:1]), atol=1e-5)
    assert torch.allclose(found[0], backbone_alone(backbone, served["lora"], rows[:1]), atol=1e-4)
    assert torch.allclose(found[2], backbone_alone(backbone, served["adapter"], rows[:1]), atol=1e-4)


def backbone_alone(backbone, delta, rows):
    with backbone.bare():
        if delta is not None:
            backbone.attach(delta)
        return backbone.choice_logits(rows)[0]


@pytest.mark.parametrize("backbone", ["bert"], indirect=True)
def test_the_backbone_is_as_it_was_even_after_an_exception(backbone, served):
    rows = tiny.sentiment_rows(2)
    kept = backbone.attach(LoRA(rank=2))
    before = backbone.choice_logits(rows)

    def served_and_then_broken():
        with backbone.serve(served) as server:
            assert backbone.delta is None
            with backbone.use(served["lora"]):  # takes the server off as well, and puts it back
                alone = backbone.choice_logits(rows)
            assert torch.allclose(server.choice_logits(rows, ["lora", "lora"]), alone, atol=1e-4)
            raise RuntimeError("inside")

    try:
        with pytest.raises(RuntimeError, match="inside"):
            served_and_then_broken()
        assert backbone.delta is kept
        assert torch.equal(backbone.choice_logits(rows), before)
    finally:
        backbone.detach()


@pytest.mark.parametrize("backbone", ["bert"], indirect=True)
def test_what_was_asked_wrongly_is_said(backbone, served):
    rows = tiny.sentiment_rows(2)
    with backbone.serve(served) as server:
        with pytest.raises(UnknownNameError, match=r"(?s)no module named 'sora'.*lora, adapter, prefix, wide"):
            server.choice_logits(rows, ["lora", "sora"])
        with pytest.raises(ConfigError, match="1 modules are named for 2 rows"):
            server.choice_logits(rows, ["lora"])
        for number in (4, -1):
            with pytest.raises(ConfigError, match=r"(?s)no module has the number.*4 modules"):
                server.choice_logits(rows, [0, number])
        with pytest.raises(BackboneError, match="no delta is attached that could be merged"):
            backbone.merge()
    with pytest.raises(BackboneError, match="none are served"):
        backbone.outputs(rows, modules=[0, 0])


def test_stored_modules_are_named_by_their_ids(tmp_path):
    backbone = tiny.tiny_backbone("bert")
    modules = list(small.make_zoo(backbone, "lora", tmp_path))
    rows = tiny.sentiment_rows(3)
    with backbone.serve(modules) as server:
        found = server.choice_logits(rows, [module.id for module in modules])
        assert torch.equal(found, server.choice_logits(rows, [0, 1, 2]))
    for row, module in enumerate(modules):
        with backbone.use(module):
            assert torch.allclose(backbone.choice_logits(rows[row : row + 1])[0], found[row], atol=1e-4)
    with pytest.raises(ConfigError, match="two modules are named"), backbone.serve([modules[0], modules[0]]):
        pass
    backbone.fingerprint = "0" * 64
    with pytest.raises(FingerprintError), backbone.serve(modules):
        pass
    assert backbone._deltas() == []


def test_modules_of_one_start_are_trained_in_one_batch():
    """Rows of several tasks in one batch: each module moves as it would alone."""
    backbone, method = tiny.tiny_backbone("bert"), METHODS.get("lora")()
    start = method.draw(backbone.model)
    rows = backbone.encode(tiny.sentiment_rows(6))
    alone = []
    for part in (rows[:3], rows[3:]):
        attached = method.attach(backbone.model, start)
        backbone(**backbone.collate(part, train=True))["losses"].sum().backward()
        alone.append({n: p.grad for n, p in attached.named_parameters()})
        attached.detach()
    with backbone.serve([Delta(method, start)] * 2) as server:
        server.mixed.requires_grad_(True)
        for number, row in enumerate(rows):
            row.module = number // 3
        backbone(**backbone.collate(rows, train=True))["losses"].sum().backward()
        for name, parameter in server.mixed.named_parameters():
            for number in (0, 1):
                gradient = parameter.grad[number + 1] * (method.scale("any") if name.endswith("lora_B") else 1)
                assert torch.allclose(gradient, alone[number][name], rtol=1e-3, atol=1e-5), name


def test_each_example_needs_its_module_named(small_zoo):
    backbone, zoo = small_zoo()
    rows = [{"input": "text: a warm film", "choices": ["negative", "positive"]}] * 3
    with backbone.serve(list(zoo)[:2]), pytest.raises(ConfigError, match="2 modules for 3 examples"):
        backbone.outputs(rows, modules=[0, 1])
