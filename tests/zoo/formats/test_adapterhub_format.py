"""AdapterHub's checkpoints, against what the real `adapters` wrote (`elsewhere/with_adapters.py` says how)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from elsewhere.models import arch_of, build, drawn, outputs
from safetensors.torch import load_file, save_file
from zoo_toys import settings_of, tensors_of

from transfer.backbones import wrap_model
from transfer.deltas import Adapter, Delta, LoRA
from transfer.importing import import_checkpoint
from zoo import FormatError
from zoo.formats import adapterhub, detect, peft
from zoo.formats.adapterhub_bottleneck import reduction_factor

WRITTEN = Path(__file__).parent / "elsewhere" / "adapterhub"
READ = (
    "bert-pfeiffer",
    "bert-houlsby",
    "bert-scaled",
    "bert-channel",
    "bert-lora",
    "bert-classifier-pfeiffer",
    "roberta-houlsby",
    "distilbert-double",
    "bart-pfeiffer",
    "gpt2-pfeiffer",
    "gpt2-houlsby",
    "gpt2-lora",
    "llama-pfeiffer",
    "mbart-pfeiffer",
    "deberta-v2-lora",
    "deberta-v2-pfeiffer",
    "t5-pfeiffer",
    "t5-houlsby",
    "t5-lora",
)
BACK = ("bert-pfeiffer", "bert-houlsby", "bart-pfeiffer", "bert-lora", "gpt2-lora", "gpt2-pfeiffer", "t5-houlsby")


def bare_model(arch):
    model = build(arch)
    return getattr(model, "bert", model)


def backbone_of(case):
    arch = arch_of(case)
    return wrap_model(bare_model(arch), tiny.tokenizer_for(arch), name=f"tiny-{arch}")


def stored(folder):
    """The tensors of a folder, whichever file they lie in."""
    safe = folder / "adapter.safetensors"
    return load_file(safe) if safe.is_file() else torch.load(folder / "pytorch_adapter.bin", weights_only=True)


@pytest.mark.parametrize("case", READ)
def test_ours_computes_what_adapters_computed(case):
    backbone, expected = backbone_of(case), load_file(WRITTEN / case / "expected.safetensors")
    torch.testing.assert_close(outputs(backbone.model), expected["bare"], rtol=1e-4, atol=1e-5)
    assert detect(WRITTEN / case) is adapterhub
    found = import_checkpoint(WRITTEN / case, backbone, allow_pickle=True)
    with backbone.use(Delta.from_module(found.module)):
        ours = outputs(backbone.model)
    torch.testing.assert_close(ours, expected["outputs"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, expected["bare"], atol=1e-2)
    assert torch.equal(outputs(backbone.model), outputs(bare_model(arch_of(case))))
    said = " ".join(found.notes)
    assert ("bert. was taken off" in said) is case.startswith("bert-classifier")
    assert ("head beside it" in said) is (WRITTEN / case / "head_config.json").is_file()
    assert ("scaling is folded" in said) is (case in ("bert-scaled", "bert-channel"))


@pytest.mark.parametrize("case", BACK)
def test_what_is_read_is_written_as_adapters_wrote_it(case, tmp_path):
    module = import_checkpoint(WRITTEN / case, backbone_of(case), allow_pickle=True).module
    card = module.card
    adapterhub.write(tmp_path, card.method, card.settings, module.tensors(), "tiny")
    theirs, ours = stored(WRITTEN / case), stored(tmp_path)
    assert {name.replace(".films.", ".delta.") for name in theirs} == set(ours)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name.replace(".films.", ".delta.")], value, rtol=0, atol=0)
    before, after = (json.loads((folder / "adapter_config.json").read_text()) for folder in (WRITTEN / case, tmp_path))
    assert after["model_type"] == before["model_type"]
    assert after["hidden_size"] == before["hidden_size"]
    changed = {
        name: value
        for name, value in after["config"].items()
        if name not in ("init_weights", "architecture") and before["config"][name] != value
    }
    assert changed == {}


@pytest.mark.parametrize(
    ("method", "arch", "alike"),
    [
        (LoRA(rank=2, alpha=6, where=("attn.q", "attn.v", "ff.w1")), "bert", True),
        (LoRA(rank=2, alpha=6, where=("attn.q", "attn.v")), "gpt2", False),  # one layer; each third gets A of its own
        (Adapter(bottleneck=3, activation="tanh", where=("ff.w2[1]",)), "llama", True),
        (Adapter(bottleneck=3, reads="sum", where=("attn.norm", "crossattn.norm")), "bart", True),
        (Adapter(bottleneck=3, reads="sum", where=("h.1",)), "gpt2", True),
    ],
    ids=lambda value: value.method if hasattr(value, "method") else None,
)
def test_ours_comes_back_through_the_format(method, arch, alike, tmp_path):
    backbone = backbone_of(arch)
    tensors = {name: drawn(name, shape) for name, shape in method.shapes(backbone.model).items()}
    settings = method.settings(backbone.model)
    with backbone.use(Delta(method, tensors)):
        expected = outputs(backbone.model)
    adapterhub.write(tmp_path, method.method, settings, tensors, "tiny")
    module = import_checkpoint(tmp_path, backbone).module
    if alike:
        assert {name: value.tolist() for name, value in module.tensors().items()} == {
            name: value.tolist() for name, value in tensors.items()
        }
        assert {**module.card.settings, "where": None} == {**settings, "where": None}
    with backbone.use(Delta.from_module(module)):
        torch.testing.assert_close(outputs(backbone.model), expected, rtol=1e-4, atol=1e-5)


def test_a_pickle_must_be_asked_for():
    with pytest.raises(FormatError, match=r"(?s)pytorch_adapter.bin, a pickle.*use_safetensors.*--allow-pickle"):
        adapterhub.read(WRITTEN / "bert-houlsby")
    assert adapterhub.read(WRITTEN / "bert-houlsby", allow_pickle=True).settings["bottleneck"] == 2


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("bert-parallel", r"is_parallel is True: a parallel adapter"),
        ("bert-compacter", r"phm_layer is True: a compacter"),
        ("bert-invertible", r"(?s)no part of a plain adapter.*invertible"),
        ("bert-ia3", r"(?s)composition_mode 'scale': IA3.*merge_adapter"),
        ("bert-prefix", r"type 'prefix_tuning'"),
        ("gpt2-sum-within", r"a sum in the middle of a block"),
    ],
)
def test_what_has_no_home_is_refused_by_name(case, said):
    with pytest.raises(FormatError, match=said):
        import_checkpoint(WRITTEN / case, backbone_of(case))


def test_another_backbone_is_refused():
    with pytest.raises(FormatError, match="does not go on this backbone"):
        import_checkpoint(WRITTEN / "bert-pfeiffer", backbone_of("gpt2"))


def changed(case, folder, **settings):
    """A folder whose config says something else; None takes a setting out."""
    for path in (WRITTEN / case).glob("*adapter*"):
        shutil.copy(path, folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    for name, value in settings.items():
        held = config if name in ("model_type", "version", "config") else config["config"]
        held[name] = value
        if value is None:
            del held[name]
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("case", "settings", "said"),
    [
        ("bert-pfeiffer", {"ln_after": True}, "ln_after is True: a normalisation"),
        ("bert-pfeiffer", {"ln_before": True}, "ln_before is True: a normalisation"),
        ("bert-pfeiffer", {"use_gating": True}, "use_gating is True: a gate"),
        ("bert-pfeiffer", {"residual_before_ln": "post_add"}, "residual_before_ln is 'post_add'"),
        ("bert-pfeiffer", {"original_ln_after": False}, "original_ln_after is False"),
        ("bert-pfeiffer", {"non_linearity": "leakyrelu"}, "activation 'leakyrelu'"),
        ("bert-pfeiffer", {"scaling": "learned"}, "no scaling at"),
        ("bert-pfeiffer", {"scaling": "wide"}, "scaling .* not a number"),
        ("bert-pfeiffer", {"model_type": "vit"}, "(?s)models of type 'vit'.*distilbert"),
        ("bert-pfeiffer", {"architecture": "reft"}, "type 'reft': it changes hidden states"),
        ("bert-pfeiffer", {"config": "mystery"}, "(?s)what kind.*mystery.*houlsby"),
        ("bert-lora", {"use_dora": True}, "(?s)not a plain LoRA.*use_dora: DoRA.*merge_adapter"),
        ("bert-lora", {"use_gating": True}, "use_gating: a gate"),
        ("bert-lora", {"vera_d": 0.1}, "vera_d: VeRA"),
        ("bert-lora", {"r": 0}, "not a count"),
        ("bert-lora", {"alpha": "x"}, "not a number"),
    ],
)
def test_settings_that_make_something_else_are_refused_by_name(case, settings, said, tmp_path):
    with pytest.raises(FormatError, match=said):
        adapterhub.read(changed(case, tmp_path, **settings))


def test_broken_files_are_typed_errors(tmp_path):
    folder = changed("bert-pfeiffer", tmp_path)
    whole = load_file(folder / "adapter.safetensors")
    first = next(iter(whole))
    for tensors, said in (
        ({name: value for name, value in whole.items() if name != first}, "has no adapter_"),
        ({**whole, "head.weight": torch.ones(1)}, "no part of a plain adapter"),
        ({**whole, first.replace("films", "books"): torch.ones(1)}, "several adapters"),
        ({name: value[:1] if "layer.0" in name else value for name, value in whole.items()}, "different widths"),
    ):
        save_file({name: value.clone() for name, value in tensors.items()}, folder / "adapter.safetensors")
        with pytest.raises(FormatError, match=said):
            adapterhub.read(folder)
    scale = next(name for name in whole if name.endswith("adapter_up.bias")).replace("adapter_up.bias", "scaling")
    save_file({**whole, scale: torch.ones(1)}, folder / "adapter.safetensors")
    with pytest.raises(FormatError, match=r"(?s)has a scaling at.*config says 1\.0"):
        adapterhub.read(folder)
    scales = {name.replace("adapter_up.bias", "scaling"): torch.ones(3) for name in whole if "adapter_up.bias" in name}
    changed("bert-pfeiffer", folder, scaling="learned")
    save_file({**whole, **scales}, folder / "adapter.safetensors")
    with pytest.raises(FormatError, match=r"scaling at .* has the shape \(3,\)"):
        adapterhub.read(folder)


def test_old_files_are_read_as_their_version_meant_them(tmp_path):
    # adapters 1.0 scaled LoRA by 1, whatever alpha said; adapter-transformers 3 by alpha / r.
    assert adapterhub.read(changed("bert-lora", tmp_path, version="adapters.1.0.1")).settings["alpha"] == 2
    assert adapterhub.read(changed("bert-lora", tmp_path, version="3.2.1")).settings["alpha"] == 6
    # Before files named a version, "gelu" was what is gelu_new today, and a name could stand for the settings.
    old = changed("bert-pfeiffer", tmp_path, version=None, non_linearity="gelu")
    assert adapterhub.read(old).settings["activation"] == "gelu_new"
    named = adapterhub.read(changed("bert-pfeiffer", tmp_path, config="houlsby")).settings
    assert (named["activation"], named.get("reads", "output")) == ("swish", "output")
    tensors = load_file(tmp_path / "adapter.safetensors")
    save_file(
        {name.replace(".adapters.", ".layer_text_task_adapters."): value for name, value in tensors.items()},
        tmp_path / "adapter.safetensors",
    )
    assert adapterhub.read(tmp_path).settings["places"] == named["places"]


def test_a_peft_folder_is_still_peft_s(tmp_path):
    peft.write(tmp_path, "lora", settings_of("lora"), tensors_of("lora"), "tiny")
    assert detect(tmp_path) is peft


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("lora", {"ranks": {settings_of("lora")["places"][0]: 1}}, "ranks of their own at 1 places"),
        ("lora", {"places": ["encoder.layer.0.attention.output.dense"]}, "no LoRA at"),
        ("adapter", {"activation": "sine"}, "no activation 'sine'"),
        (
            "adapter",
            {"places": ["encoder.layer.0.attention.self.query"]},
            "(?s)no adapter at.*query.*output of a layer",
        ),
        ("adapter", {"reads": "sum"}, "no adapter at .*dense.* reads the sum"),
        ("bitfit", {}, "holds lora, adapter"),
    ],
)
def test_what_adapters_cannot_hold_is_a_typed_error(method, changes, said, tmp_path):
    settings = {**settings_of(method), **changes}
    assert not adapterhub.fits(method, settings, {})
    with pytest.raises(FormatError, match=said):
        adapterhub.write(tmp_path, method, settings, tensors_of(method), "tiny")
    assert not list(tmp_path.iterdir())


def test_the_reduction_factor_gives_every_bottleneck_back():
    for width in (8, 384, 768, 1000):
        for bottleneck in range(1, width + 1):
            assert int(width // reduction_factor(width, bottleneck)) == bottleneck
