"""A model without weights has the modules and shapes of the one with them."""

from __future__ import annotations

import architectures
import pytest
import tiny

from transfer.backbones import load_backbone
from transfer.backbones.outline import build_outline, load_outline
from transfer.errors import BackboneError, ConfigError, UnknownNameError


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_an_outline_has_the_shapes_of_the_loaded_model(arch, tmp_path):
    model = tiny.tiny_model(arch)
    model.config.save_pretrained(tmp_path)  # no weights, no tokenizer
    outline = load_outline(tmp_path)
    assert type(outline) is type(model)
    shapes = [[(name, p.shape) for name, p in some.named_parameters()] for some in (outline, model)]
    assert shapes[0] == shapes[1]
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert not any(p.requires_grad for p in outline.parameters())
    assert not outline.training


def test_models_that_are_no_text_models_are_built_too():
    for arch, name in (("vit", "ViTModel"), ("clip", "CLIPModel"), ("whisper", "WhisperModel")):
        outline = build_outline(architectures.build(arch).config, arch)
        assert type(outline).__name__ in (name, "WhisperForConditionalGeneration")


def test_the_embedded_model_is_there(embedded):
    outline = load_outline()
    assert {n: p.shape for n, p in outline.named_parameters()} == {
        n: p.shape for n, p in embedded.model.named_parameters()
    }


def test_the_kind_chooses_the_class(tmp_path):
    tiny.tiny_model("t5").config.save_pretrained(tmp_path)
    assert type(load_outline(tmp_path, "encoder")).__name__ == "T5Model"
    with pytest.raises(ConfigError, match="is no causal model"):
        load_outline(tmp_path, "causal")
    with pytest.raises(UnknownNameError, match="encoder"):
        load_outline(tmp_path, "encodr")


def test_what_has_no_configuration_is_explained(tmp_path):
    with pytest.raises(BackboneError, match="cannot read the configuration"):
        load_outline(tmp_path)
    with pytest.raises(BackboneError, match="no backbone folder"):
        load_outline("./nowhere")
    with pytest.raises(BackboneError, match="no copy in the Hub's cache"):
        load_outline("someone/some-model")
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(BackboneError, match="cannot read the configuration"):
        load_outline(tmp_path)


def test_a_configuration_with_a_field_of_the_wrong_kind_is_explained(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": "x"}')
    with pytest.raises(BackboneError, match="cannot read the configuration"):
        load_outline(tmp_path)
    with pytest.raises(BackboneError, match="cannot load backbone"):
        load_backbone(str(tmp_path))
