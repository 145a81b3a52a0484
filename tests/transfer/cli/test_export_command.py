"""`transfer zoo export --merged`: a model that transformers loads by itself."""

from __future__ import annotations

import torch
from transformers import AutoModel

from transfer.backbones import load_backbone
from transfer.deltas import Delta, LoRA
from zoo import Card, Module, Zoo


def test_a_merged_model_answers_like_backbone_and_module(transfer, backbone_folder, tmp_path):
    source = backbone_folder("bert")
    backbone = load_backbone(str(source), precision="fp32")
    method, generator = LoRA(), torch.Generator().manual_seed(0)
    shapes = method.shapes(backbone.model)
    tensors = {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}
    card = Card(
        task="toy",
        method="lora",
        settings=method.settings(backbone.model),
        backbone=backbone.said_name,
        fingerprint=backbone.fingerprint,
        provenance={"kind": "encoder"},
    )
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
