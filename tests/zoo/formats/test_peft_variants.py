"""Checkpoints of PEFT with settings of all kinds, each written by the real `peft`: read exactly, or refused by name."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import tiny
import torch
from transformers import BertForSequenceClassification

from transfer.deltas import METHODS, Delta
from transfer.importing import import_checkpoint
from zoo import FormatError, TensorError
from zoo.formats import get_format
from zoo.formats.peft_variants import MERGE

PEFT = get_format("peft")


@pytest.fixture(scope="module")
def backbones():
    made = {}

    def make(arch):
        if arch not in made:
            made[arch] = tiny.tiny_backbone(arch)
        return made[arch]

    return make


def lora(**settings):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], **settings})


def disturb(model):
    """Give all trained tensors values that show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(torch.randn(value.shape, generator=generator) * 0.3)
    return model.eval()


def saved(config, folder, model, **options):
    """What PEFT wrote for a model like this one, and PEFT's model."""
    theirs = disturb(peft.get_peft_model(copy.deepcopy(model), config))
    theirs.save_pretrained(folder, **options)
    return theirs


def states(model):
    with torch.no_grad():
        out = model(input_ids=torch.tensor([[0, 40, 50, 60, 2], [0, 41, 45, 48, 2]]))
    return out.last_hidden_state if "last_hidden_state" in out else out.logits


def check_equal(folder, backbone, theirs, **options):
    """Read the folder; ours on the bare backbone gives what theirs gives. Returns what was read."""
    found = import_checkpoint(folder, backbone, **options)
    with backbone.use(Delta.from_module(found.module)):
        ours = states(backbone.model)
    torch.testing.assert_close(ours, states(theirs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, states(backbone.model), atol=1e-2)
    return found


KINDS = {
    "rslora": {"use_rslora": True, "r": 3},
    "patterns": {"rank_pattern": {"query": 2}, "alpha_pattern": {"layer.1.*value": 3}, "use_rslora": True},
    "all-linear": {"target_modules": "all-linear"},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layer"},
    "regex": {"target_modules": r".*attention\.self\.(key|value)"},
    "excluded": {"exclude_modules": ["encoder.layer.0.attention.self.query"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "fan": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "causal": {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"},
    "seq2seq": {"target_modules": ["q", "wo"], "task_type": "SEQ_2_SEQ_LM"},
}
ARCHITECTURES = {"fan": "gpt2", "causal": "llama", "seq2seq": "t5"}


@pytest.mark.parametrize("kind", KINDS)
def test_read_ours_computes_what_peft_computes(kind, backbones, tmp_path):
    backbone = backbones(ARCHITECTURES.get(kind, "bert"))
    if kind == "seq2seq":
        theirs = saved(lora(**KINDS[kind]), tmp_path, backbone.model)
        found = import_checkpoint(tmp_path, backbone)
        ids = torch.tensor([[5, 6, 7]])
        with torch.no_grad(), backbone.use(Delta.from_module(found.module)):
            ours = backbone.model(input_ids=ids, decoder_input_ids=ids).logits
            torch.testing.assert_close(ours, theirs(input_ids=ids, decoder_input_ids=ids).logits, rtol=1e-4, atol=1e-5)
        return
    check_equal(tmp_path, backbone, saved(lora(**KINDS[kind]), tmp_path, backbone.model))


def test_the_scale_of_rslora_is_kept_exactly(backbones, tmp_path):
    saved(lora(**KINDS["patterns"]), tmp_path, backbones("bert").model)
    settings = PEFT.read(tmp_path).settings
    method = METHODS.get("lora").from_settings(settings)
    for place in settings["places"]:
        rank = 2 if place.endswith("query") else 4
        alpha = 3 if "layer.1" in place and place.endswith("value") else 8
        assert method.scale(place) == pytest.approx(alpha / rank**0.5, rel=1e-15)


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("dora", lora(use_dora=True), r"(?s)use_dora: DoRA.*merge_and_unload"),
        ("bias of the layers", lora(bias="lora_only"), r"(?s)bias: 'lora_only'.*bias=.none"),
        ("all biases", lora(bias="all"), r"(?s)trains biases.*bias: 'all'"),
        ("bias on B", lora(lora_bias=True), "a bias on B"),
        ("pissa", lora(init_lora_weights="pissa"), r"(?s)pissa.*path_initial_model"),
        ("olora", lora(init_lora_weights="olora"), r"(?s)olora.*path_initial_model"),
        ("embeddings", lora(modules_to_save=["word_embeddings"]), r"(?s)trains parts.*word_embeddings"),
        ("norms", lora(modules_to_save=["LayerNorm"]), r"(?s)in full.*embeddings\.LayerNorm"),
        (
            "ia3",
            peft.IA3Config(target_modules=["key", "value"], feedforward_modules=[]),
            r"(?s)IA3: it mult.*merge_and",
        ),
        ("adalora", peft.AdaLoraConfig(target_modules=["query"], total_step=10), r"(?s)ADALORA: it weighs.*LORA"),
        ("loha", peft.LoHaConfig(target_modules=["query"]), "LOHA"),
        ("ln", peft.LNTuningConfig(target_modules=["LayerNorm"]), "LN_TUNING"),
    ],
)
def test_what_has_no_home_is_refused_by_its_name(kind, config, said, backbones, tmp_path):
    bert = backbones("bert")
    saved(config, tmp_path, bert.model)
    with pytest.raises(FormatError, match=said) as caught:
        import_checkpoint(tmp_path, bert)
    assert caught.value.hint


def test_what_changed_the_backbone_is_read_once_peft_has_converted_it(backbones, tmp_path):
    bert = backbones("bert")
    theirs = peft.get_peft_model(copy.deepcopy(bert.model), lora(init_lora_weights="pissa"))
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "first")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    disturb(theirs)
    theirs.save_pretrained(tmp_path / "films", path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    check_equal(tmp_path / "films", bert, theirs)


@pytest.mark.parametrize("modules_to_save", [None, ["classifier"], ["classifier", "pooler"]])
def test_heads_and_poolers_are_left_out_and_told(modules_to_save, backbones, tmp_path):
    bert = backbones("bert")
    model = BertForSequenceClassification(copy.deepcopy(bert.model.config)).eval()
    model.bert.load_state_dict(bert.model.state_dict(), strict=False)
    theirs = saved(lora(task_type="SEQ_CLS", modules_to_save=modules_to_save), tmp_path, model)
    found = check_equal(tmp_path, bert, theirs.base_model.model.bert)
    dropped = " ".join(note for note in found.notes if note.startswith("left out"))
    assert "classifier" in dropped
    assert ("pooler" in dropped) == (modules_to_save is not None and "pooler" in modules_to_save)


def test_a_trained_head_of_a_language_model_is_no_head_to_leave_out(backbones, tmp_path):
    llama = backbones("llama")
    saved(lora(target_modules=["q_proj"], task_type="CAUSAL_LM", modules_to_save=["lm_head"]), tmp_path, llama.model)
    with pytest.raises(FormatError, match=r"(?s)modules_to_save: lm_head") as caught:
        import_checkpoint(tmp_path, llama)
    assert caught.value.hint == MERGE


def test_a_pickle_is_read_when_it_is_asked_for_and_not_before(backbones, tmp_path):
    bert = backbones("bert")
    theirs = saved(lora(), tmp_path, bert.model, safe_serialization=False)
    assert (tmp_path / "adapter_model.bin").is_file()
    with pytest.raises(FormatError, match=r"(?s)adapter_model\.bin, a pickle.*save_pretrained.*--allow-pickle"):
        import_checkpoint(tmp_path, bert)
    check_equal(tmp_path, bert, theirs, allow_pickle=True)


def test_a_safetensors_file_goes_before_a_pickle(backbones, tmp_path):
    bert = backbones("bert")
    theirs = saved(lora(), tmp_path, bert.model)
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    check_equal(tmp_path, bert, theirs, allow_pickle=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": "x"},
        {"lora_dropout": None},
        {"modules_to_save": 3},
        {"modules_to_save": [3]},
        {"alpha_pattern": {"query": float("1e400")}},
    ],
)
def test_a_config_of_wrong_types_is_a_typed_error(changes, backbones, tmp_path):
    saved(lora(), tmp_path, backbones("bert").model)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(FormatError):
        PEFT.read(tmp_path)


def test_not_a_number_in_a_pickle_is_refused(tmp_path, backbones):
    theirs = saved(lora(), tmp_path, backbones("bert").model, safe_serialization=False)
    path = tmp_path / "adapter_model.bin"
    torch.save({name: value * torch.nan for name, value in torch.load(path).items()}, path)
    with pytest.raises(TensorError, match="NaN"):
        dict(PEFT.read(tmp_path, allow_pickle=True).tensors)
    assert theirs is not None
