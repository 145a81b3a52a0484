"""PEFT checkpoints, written and read, against the real `peft` on a tiny BERT."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM
from zoo_toys import card_of, settings_of, tensors_of

from zoo import FormatError, Module, TensorError, Zoo
from zoo.formats import detect, peft
from zoo.formats.peft_names import fit_places, is_seq2seq, task_type

INPUTS = {"input_ids": torch.tensor([[0, 40, 50, 60, 2], [0, 41, 2, 1, 1]])}
INPUTS["attention_mask"] = (INPUTS["input_ids"] != 1).long()


@pytest.fixture
def bert():
    return tiny.tiny_model("bert")


def places_of(model):
    return [name for name, _ in model.named_modules() if name]


def attention_of(model):
    return [name for name in places_of(model) if name.endswith("attention.self")]


@torch.no_grad()
def hidden(model):
    """Last hidden state of the real tokens."""
    found = model.eval()(**INPUTS).last_hidden_state[:, -5:]
    return found[INPUTS["attention_mask"].bool()]


def disturb(model):
    """Give all trained tensors values that show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "prompt_encoder" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def saved(config, folder, arch="bert"):
    """A folder that peft wrote, and the outputs of the model it came from."""
    model = disturb(get_peft_model(tiny.tiny_model(arch), config))
    model.save_pretrained(folder)
    return hidden(model) if arch == "bert" else None


def through_the_zoo(folder, tmp_path, bert):
    """Read a PEFT folder, add it to a zoo, and give the stored module."""
    method, settings, tensors = peft.read(folder, places_of(bert), attention_of(bert))
    module = Module.new(card_of(method=method, settings=settings), tensors)
    return Zoo(tmp_path / "zoo").add(module)


LORAS = {
    "plain": {},
    "scaled": {"lora_alpha": 5},
    "rslora": {"use_rslora": True, "r": 3},
    "ranks": {"rank_pattern": {"value": 5, "layer.0.attention.self.query": 2}},
    "alphas": {"alpha_pattern": {"^encoder.layer.1.attention.self.query": 32, r".*\.0\..*value": 3}},
    "both": {"rank_pattern": {"query": 6}, "alpha_pattern": {"value": 1}, "use_rslora": True},
    "everywhere": {"target_modules": "all-linear"},
    "one layer": {"layers_to_transform": [1]},
}


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_of_peft_goes_through_the_zoo_and_back_with_equal_outputs(kind, tmp_path, bert):
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **LORAS[kind]})
    expected = saved(config, tmp_path / "peft")
    module = through_the_zoo(tmp_path / "peft", tmp_path, bert)
    loaded = PeftModel.from_pretrained(bert, str(module.folder))
    assert torch.allclose(hidden(loaded), expected, atol=1e-6)
    assert not torch.allclose(expected, hidden(tiny.tiny_model("bert")), atol=1e-2)
    exported = Zoo(tmp_path / "zoo").export(module.id, tmp_path / "out")
    assert torch.allclose(
        hidden(PeftModel.from_pretrained(tiny.tiny_model("bert"), str(exported))), expected, atol=1e-6
    )


def test_a_stored_lora_can_be_trained_on_by_peft(tmp_path, bert):
    saved(LoraConfig(r=2, target_modules=["query"]), tmp_path / "peft")
    module = through_the_zoo(tmp_path / "peft", tmp_path, bert)
    model = PeftModel.from_pretrained(bert, str(module.folder), is_trainable=True)
    model(**INPUTS).last_hidden_state.pow(2).mean().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize("projection", [False, True])
def test_a_prefix_of_peft_goes_through_the_zoo_and_back_with_equal_outputs(projection, tmp_path, bert):
    config = PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=3, prefix_projection=projection, encoder_hidden_size=32
    )
    expected = saved(config, tmp_path / "peft")
    module = through_the_zoo(tmp_path / "peft", tmp_path, bert)
    assert module.card.settings["position_shift"] is True
    assert (module.card.settings["heads"], module.card.settings["head_width"]) == (4, 8)
    loaded = PeftModel.from_pretrained(bert, str(module.folder))
    assert torch.allclose(hidden(loaded), expected, atol=1e-6)
    assert not torch.allclose(expected, hidden(tiny.tiny_model("bert")), atol=1e-2)


def test_a_causal_prefix_is_written_for_language_models(tmp_path):
    places = [f"model.layers.{layer}.self_attn" for layer in range(2)]
    settings = {**settings_of("prefix"), "places": places, "heads": 2, "head_width": 8}
    tensors = {f"{p}.{part}": torch.randn(3, 16) for p in places for part in ("prefix_key", "prefix_value")}
    peft.write(tmp_path, "prefix", settings, tensors, "tiny-llama")
    model = PeftModel.from_pretrained(tiny.tiny_model("llama"), str(tmp_path))
    assert model.peft_config["default"].task_type == "CAUSAL_LM"
    with torch.no_grad():
        moved = model(**INPUTS).logits - tiny.tiny_model("llama")(**INPUTS).logits
    assert moved.abs().max() > 1e-3


def test_a_prefix_on_disk_is_one_tensor_with_key_and_value_by_layer(tmp_path):
    settings, tensors = settings_of("prefix"), tensors_of("prefix")
    peft.write(tmp_path, "prefix", settings, tensors, "tiny")
    whole = load_file(tmp_path / "adapter_model.safetensors")["prompt_embeddings"]
    slots = whole.view(3, 4, 16)
    names = [f"{p}.{part}" for p in settings["places"] for part in ("prefix_key", "prefix_value")]
    assert all(torch.equal(slots[:, index], tensors[name]) for index, name in enumerate(names))
    read = peft.open_tensors(tmp_path, "prefix", settings)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"position_shift": False}, "positions"),
        ({"heads": None}, "heads"),
        ({"places": ["encoder.block.0.attn", "decoder.block.0.attn"]}, "encoder-decoder"),
        ({"places": ["layer.1.attn", "layer.0.attn"]}, "every layer once"),
    ],
)
def test_a_prefix_that_peft_computes_otherwise_is_stored_in_our_format(changed, said, tmp_path):
    settings = {**settings_of("prefix"), **changed}
    tensors = {f"{p}.{part}": torch.ones(3, 16) for p in settings["places"] for part in ("prefix_key", "prefix_value")}
    with pytest.raises(FormatError, match=said):
        peft.write(tmp_path, "prefix", settings, tensors, "tiny")
    stored = Zoo(tmp_path / "zoo").add(Module.new(card_of(method="prefix", settings=settings), tensors))
    assert (stored.folder / "delta_config.json").is_file()
    assert not (stored.folder / "adapter_config.json").exists()


def test_t5_prefix_of_peft_is_read_with_its_own_map_of_layers(tmp_path):
    config = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    saved(config, tmp_path, "t5")
    t5 = tiny.tiny_model("t5")
    attention = [name for name in places_of(t5) if name.endswith("SelfAttention")]
    read = peft.read(tmp_path, None, attention)
    assert [place.split(".")[0] for place in read.settings["places"]] == ["decoder", "decoder"]
    assert read.settings["position_shift"] is False
    assert "decoder" in read.notes[0]
    model = PeftModel.from_pretrained(t5, str(tmp_path))
    cache = model.get_prompt(batch_size=1).self_attention_cache
    for layer, place in enumerate(read.settings["places"]):
        for name, there in (("prefix_key", cache.layers[layer].keys), ("prefix_value", cache.layers[layer].values)):
            assert torch.equal(read.tensors[f"{place}.{name}"], there[0].transpose(0, 1).flatten(1))


def test_a_task_class_leaves_its_front_and_its_head_behind(tmp_path, bert):
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification(bert.config)
    model.bert.load_state_dict(bert.state_dict())
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    disturb(get_peft_model(model, config)).save_pretrained(tmp_path)
    for places in (None, places_of(bert)):
        read = peft.read(tmp_path, places)
        assert read.stripped == "bert."
        assert len(read.tensors) == 4
        assert all(name.startswith("encoder.layer.") for name in read.tensors)
        assert {name.split(".")[2] for name in read.dropped} == {"classifier"}
        assert any("bert." in note for note in read.notes)
        assert any("left out" in note for note in read.notes)


def test_a_front_is_put_there_or_taken_off_as_the_model_asks(tmp_path):
    layers = ["layers.0.q", "layers.1.q"]
    assert fit_places(tmp_path, layers, ["model", *(f"model.{name}" for name in layers)])[0].shown == "+model."
    assert fit_places(tmp_path, [f"model.{name}" for name in layers], layers)[0].shown == "model."
    assert fit_places(tmp_path, layers, layers)[0].shown == ""
    with pytest.raises(FormatError, match=r"(?s)does not go on this backbone.*layers\.1\.q"):
        fit_places(tmp_path, layers, layers[:1])


def folder_of(tmp_path, tensors=None, **config):
    """A PEFT LoRA folder by hand."""
    settings = settings_of("lora")
    peft.write(tmp_path, "lora", settings, tensors_of("lora"), "tiny")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    if tensors is not None:
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
    return tmp_path


FRONT = "base_model.model.encoder.layer.0.attention.self.query"
A, B = torch.ones(2, 16), torch.ones(16, 2)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "bias on B"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"layer_replication": [[0, 1]]}, "replicated"),
        ({"target_parameters": ["x"]}, "no layers"),
        ({"trainable_token_indices": [1]}, "token"),
        ({"arrow_config": {"top_k": 1}}, "Arrow"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "olora"}, "path_initial_model"),
        ({"peft_type": "IA3"}, "type IA3"),
        ({"peft_type": None}, "type None"),
        ({"r": "8"}, "not a count"),
        ({"r": 0}, "not a count"),
        ({"lora_alpha": None}, "not a number"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "not a pattern"),
        ({"alpha_pattern": {".*.*.*.*.*x": 1}}, "not a pattern"),
        ({"alpha_pattern": {"(": 1}}, "not a pattern"),
        ({"alpha_pattern": {"query": "x"}}, "not a number"),
    ],
)
def test_other_variants_and_broken_configs_are_refused_by_name(tmp_path, config, said):
    with pytest.raises(FormatError, match=said):
        peft.read(folder_of(tmp_path, **config))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{FRONT}.lora_A.weight": A}, "only one of A and B"),
        ({f"{FRONT}.lora_A.weight": A, f"{FRONT}.lora_B.weight": torch.ones(16, 3)}, "no LoRA of a linear layer"),
        ({f"{FRONT}.lora_A.weight": torch.ones(2, 4, 3, 3), f"{FRONT}.lora_B.weight": B}, "no LoRA of a linear"),
        ({f"{FRONT}.lora_magnitude_vector": A, f"{FRONT}.lora_A.weight": A}, "not a plain LoRA"),
        ({f"{FRONT}.lora_embedding_A": A}, "only one of A and B"),
        ({f"{FRONT}.lora_E": A}, "not a plain LoRA"),
        (
            {f"{FRONT}.lora_A.weight": A, f"{FRONT}.lora_B.weight": B, "base_model.model.x.weight": A},
            "no part of a LoRA",
        ),
        ({"base_model.model.classifier.weight": A}, "no LoRA tensors"),
    ],
)
def test_other_tensors_are_refused_by_name(tmp_path, tensors, said):
    with pytest.raises(FormatError, match=said):
        peft.read(folder_of(tmp_path, tensors))


def test_pickles_are_refused_and_never_opened(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(FormatError, match=r"(?s)pickle.*save_pretrained"):
        peft.read(tmp_path)


def test_broken_files_and_links_are_refused(tmp_path):
    folder_of(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    content = path.read_bytes()
    for broken in (b"", content[:20], content[:-3], (2**62).to_bytes(8, "little") + content[8:]):
        path.write_bytes(broken)
        with pytest.raises(TensorError, match="be read"):
            dict(peft.read(tmp_path).tensors)
    path.unlink()
    path.symlink_to(tmp_path.parent)
    with pytest.raises(FormatError, match=r"no adapter_model\.safetensors"):
        peft.read(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(b"\xff{")
    with pytest.raises(FormatError, match="cannot be read"):
        peft.read(tmp_path)


def test_not_finite_tensors_of_strangers_are_refused(tmp_path):
    folder_of(tmp_path, {f"{FRONT}.lora_A.weight": A * torch.nan, f"{FRONT}.lora_B.weight": B})
    with pytest.raises(TensorError, match="NaN"):
        dict(peft.read(tmp_path).tensors)


def test_a_prefix_needs_places_that_fit(tmp_path):
    peft.write(tmp_path, "prefix", settings_of("prefix"), tensors_of("prefix"), "tiny")
    with pytest.raises(FormatError, match="does not say where"):
        peft.read(tmp_path)
    with pytest.raises(FormatError, match="2 layers, 3 places"):
        peft.read(tmp_path, ["a.0", "a.1", "a.2"])
    assert peft.read(tmp_path, ["a.0", "a.1"]).settings["places"] == ["a.0", "a.1"]


def test_a_rank_that_peft_would_give_to_another_place_too_keeps_the_module_in_our_format(tmp_path):
    settings = {"rank": 2, "alpha": 4, "places": ["q", "deep.q"], "ranks": {"q": 3}}
    tensors = {
        "q.lora_A": torch.ones(3, 4),
        "q.lora_B": torch.ones(4, 3),
        "deep.q.lora_A": torch.ones(2, 4),
        "deep.q.lora_B": torch.ones(4, 2),
    }
    stored = Zoo(tmp_path).add(Module.new(card_of(settings=settings), tensors))
    assert (stored.folder / "delta_config.json").is_file()
    assert torch.equal(stored.tensors()["q.lora_A"], tensors["q.lora_A"])


def test_methods_that_peft_lacks_are_refused_by_name(tmp_path):
    with pytest.raises(FormatError, match="adapter"):
        peft.write(tmp_path, "adapter", settings_of("adapter"), tensors_of("adapter"), "tiny")


def test_detect_names_what_is_there(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(FormatError, match=r"(?s)no checkpoint.*model\.bin.*adapter_config\.json"):
        detect(tmp_path)


def test_places_that_the_backbone_lacks_are_named_under_the_front_that_fits_the_others(tmp_path, bert):
    config = LoraConfig(target_modules=["query", "dense"])
    get_peft_model(BertForMaskedLM(bert.config), config).save_pretrained(tmp_path)
    with pytest.raises(FormatError) as caught:
        peft.read(tmp_path, places_of(bert))
    assert caught.value.found == "1 of its 9 places are not there, cls.predictions.transform.dense for example"
    assert "without the places" in caught.value.hint
    with pytest.raises(FormatError, match="9 of its 9 places are not there"):
        peft.read(tmp_path, ["another.model"])


def test_task_types_are_read_off_the_places_unless_told():
    assert task_type(None, ["transformer.h.0.attn"]) == "CAUSAL_LM"
    assert task_type(None, ["h.0.attn"]) == "FEATURE_EXTRACTION"
    assert task_type(None, ["transformer.layer.0.attention"]) == "FEATURE_EXTRACTION"
    assert task_type(None, ["encoder.block.0", "decoder.block.0"]) == "SEQ_2_SEQ_LM"
    assert task_type("causal", ["encoder.layer.0"]) == "CAUSAL_LM"
    assert not is_seq2seq(["model.decoder.layers.0.self_attn"])
    with pytest.raises(FormatError, match="no kind"):
        task_type("vision", ["a"])
