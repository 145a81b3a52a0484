"""`transfer zoo export`: a model that transformers loads by itself, or a checkpoint of another library."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from transfer.backbones import load_backbone
from transfer.deltas import Adapter, Delta, LoRA, SoRA, ranks_of
from zoo import Card, Module, Signature, Zoo


def card_of(method, backbone):
    return Card(
        task="toy",
        method=method.method,
        settings=method.settings(backbone.model),
        backbone=backbone.said_name,
        fingerprint=backbone.fingerprint,
        provenance={"kind": "encoder"},
    )


def test_a_merged_model_answers_like_backbone_and_module(transfer, backbone_folder, tmp_path):
    source = backbone_folder("bert")
    backbone = load_backbone(str(source), precision="fp32")
    method, generator = LoRA(), torch.Generator().manual_seed(0)
    shapes = method.shapes(backbone.model)
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    card = card_of(method, backbone)
    module = Zoo(tmp_path / "zoo").add(Module.new(card, tensors))
    options = ("--zoo", tmp_path / "zoo")
    target = tmp_path / "model"
    # A card tells no path, so the folder of the backbone is named here.
    ran = transfer("zoo", "export", module.id, "--merged", "--to", target, "--backbone", source, *options)
    assert (ran.code, "".join(ran.out.split())) == (0, f"wrote{target}")  # a long path is folded
    ids = torch.randint(5, 200, (2, 7))
    with torch.no_grad(), backbone.use(Delta.from_module(module)):
        expected = backbone.model(input_ids=ids).last_hidden_state
        found = AutoModel.from_pretrained(target).eval()(input_ids=ids).last_hidden_state
    assert torch.allclose(found, expected, atol=2e-5)

    for words in ((), (tmp_path / "a", "--to", tmp_path / "b")):
        ran = transfer("zoo", "export", module.id, *words, *options)
        assert ran.code == 1
        assert "--to FOLDER" in ran.err
    ran = transfer("zoo", "export", module.id, tmp_path / "a", "--backbone", source, *options)
    assert "--backbone goes with --merged" in ran.err
    assert transfer("zoo", "export", module.id, tmp_path / "a", *options).code == 0
    assert (tmp_path / "a" / "adapter_config.json").is_file()


def test_a_format_is_written_and_added_again(transfer, backbone_folder, tmp_path):
    source = backbone_folder("bert")
    backbone = load_backbone(str(source), precision="fp32")
    method = Adapter(bottleneck=4)
    tensors = {name: torch.full(shape, 0.1) for name, shape in method.shapes(backbone.model).items()}
    card = Card(
        task="toy",
        method="adapter",
        settings=method.settings(backbone.model),
        backbone=backbone.said_name,
        fingerprint=backbone.fingerprint,
    )
    module = Zoo(tmp_path / "zoo").add(Module.new(card, tensors))
    options, target = ("--zoo", tmp_path / "zoo"), tmp_path / "toy"
    ran = transfer("zoo", "export", module.id, "--format", "adapterhub", "--to", target, *options)
    assert ran.code == 0
    assert sorted(path.name for path in target.iterdir()) == ["README.md", "adapter.safetensors", "adapter_config.json"]
    again = ("--backbone", source, "--zoo", tmp_path / "other")
    ran = transfer("zoo", "add", target, *again)
    assert ran.code == 0
    assert [found.id for found in Zoo(tmp_path / "other")] == [module.id]

    for words, said in (
        (("--format", "adapterhup"), "--format adapterhub"),
        (("--format", "peft"), "PEFT has no adapter"),
        (("--format", "adapterhub", "--merged"), "leave out --merged"),
    ):
        ran = transfer("zoo", "export", module.id, *words, "--to", tmp_path / "no", *options)
        assert ran.code == 1
        assert said in " ".join(ran.err.split())


@pytest.fixture
def half_closed(backbone_folder, tmp_path):
    """(folder of a backbone, the backbone, a stored SoRA with no rank at one place and some at the others)."""
    source = backbone_folder("bert")
    backbone = load_backbone(str(source), precision="fp32")
    method, generator = SoRA(rank=4), torch.Generator().manual_seed(0)
    shapes = method.shapes(backbone.model)
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    gates = [name for name in tensors if name.endswith(".lora_gate")]
    tensors[gates[0]].zero_()
    for number, name in enumerate(gates[1:]):
        tensors[name].view(-1)[: number % 3].zero_()
    card = card_of(method, backbone)
    signature = Signature(centroid=torch.ones(8).numpy())
    return source, backbone, Zoo(tmp_path / "zoo").add(Module.new(card, tensors, signature))


@torch.no_grad()
@pytest.mark.parametrize("words", [(), ("--no-signature",), ("--format", "peft")], ids=" ".join)
def test_a_pruned_sora_is_a_lora_that_peft_loads(words, transfer, half_closed, tmp_path):
    from peft import PeftModel

    source, backbone, module = half_closed
    target = tmp_path / "lora"
    ran = transfer("zoo", "export", module.id, "--prune", *words, "--to", target, "--zoo", tmp_path / "zoo")
    assert ran.code == 0, ran.err
    ids = torch.randint(5, 200, (2, 7))
    with backbone.use(Delta.from_module(module)):
        expected = backbone.model(input_ids=ids).last_hidden_state
    bare = AutoModel.from_pretrained(source).eval()
    assert not torch.allclose(bare(input_ids=ids).last_hidden_state, expected, atol=1e-2)
    theirs = PeftModel.from_pretrained(bare, str(target)).eval()
    assert torch.allclose(theirs(input_ids=ids).last_hidden_state, expected, atol=1e-5)
    if words == ("--format", "peft"):
        assert not (target / "card.json").exists()
        return
    ours = Module.load(target)
    assert (ours.card.method, ours.card.provenance["pruned_from"]) == ("lora", module.id)
    assert (ours.signature.centroid is None) == bool(words)
    assert ("signature" in ours.card.provenance) == bool(words)
    kept = {place: rank for place, rank in ranks_of(module).kept.items() if rank}
    assert ranks_of(ours).kept == kept
    assert len(kept) < len(ranks_of(module).kept)
    assert len(set(kept.values())) > 1


def test_pruning_is_refused_where_there_is_nothing_to_prune(transfer, half_closed, tmp_path):
    _, backbone, sora = half_closed
    for method in (LoRA(), Adapter(bottleneck=4)):
        tensors = {name: torch.full(shape, 0.1) for name, shape in method.shapes(backbone.model).items()}
        card = sora.card.changed(method=method.method, settings=method.settings(backbone.model))
        module = Zoo(tmp_path / "zoo").add(Module.new(card, tensors))
        ran = transfer("zoo", "export", module.id, "--prune", "--to", tmp_path / "no", "--zoo", tmp_path / "zoo")
        assert ran.code == 1
        assert f"method '{method.method}' has no gates" in " ".join(ran.err.split())
    for words, said in (
        (("--merged",), "leave out --prune"),
        (("--format", "adapterhub"), "cannot be an AdapterHub checkpoint"),
        (("--backbone", "x"), "--backbone goes with --merged"),
    ):
        ran = transfer("zoo", "export", sora.id, "--prune", *words, "--to", tmp_path / "no", "--zoo", tmp_path / "zoo")
        assert ran.code == 1
        assert said in " ".join(ran.err.split())
    assert not (tmp_path / "no").exists()
