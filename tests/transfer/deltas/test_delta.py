from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model

from transfer.deltas import METHODS, Delta, LoRA
from transfer.errors import DeltaError
from zoo.errors import FormatError, PathError


def stored(method, settings, tensors):
    """What a delta asks of a module of the store."""
    card = SimpleNamespace(method=method, settings=settings)
    return SimpleNamespace(card=card, tensors=lambda dtype=None: {k: v.to(dtype) for k, v in tensors.items()})


@pytest.mark.parametrize("name", METHODS.names())
def test_a_stored_module_goes_onto_the_model(name, tiny_model):
    model, method = tiny_model("bert"), METHODS.get(name)()
    tensors = {key: tensor.half() for key, tensor in method.draw(model).items()}
    delta = Delta.from_module(stored(name, method.settings(model), tensors))
    attached = delta.attach(model)
    assert attached.places == method.places(model)
    for key, tensor in attached.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensors[key].float())


def test_a_module_of_another_backbone_names_the_place(tiny_model):
    method = LoRA()
    settings, tensors = method.settings(tiny_model("llama")), method.draw(tiny_model("llama"))
    with pytest.raises(DeltaError, match=r"no place named 'model\.layers\.0\.self_attn\.q_proj' in BertModel"):
        Delta.from_module(stored("lora", settings, tensors)).attach(tiny_model("bert"))


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS.names())
def test_a_saved_delta_is_what_it_was(name, tmp_path, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model("gpt2"), inputs_for("gpt2")
    attached = METHODS.get(name)().attach(model)
    disturbed(attached)
    expected, delta = outputs(model, inputs), Delta.from_attached(attached)
    attached.detach()
    assert delta.save(tmp_path / "delta") == tmp_path / "delta"
    again = Delta.load(tmp_path / "delta")
    assert again.settings == delta.settings
    again.attach(model)
    assert torch.equal(outputs(model, inputs), expected)


def test_a_delta_takes_the_place_of_a_saved_one_and_of_nothing_else(tmp_path, tiny_model):
    first, second = (Delta(LoRA(rank=rank), LoRA(rank=rank).draw(tiny_model("bert"))) for rank in (1, 2))
    first.save(tmp_path / "delta")
    with pytest.raises(PathError, match="is there already"):
        second.save(tmp_path / "delta")
    second.save(tmp_path / "delta", replace=True)
    assert Delta.load(tmp_path / "delta").method == LoRA(rank=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(PathError, match="holds something else"):
        first.save(tmp_path / "other", replace=True)
    with pytest.raises(FormatError, match="no checkpoint in"):
        Delta.load(tmp_path / "other")


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, init_lora_weights=False),
        PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3),
    ],
    ids=["lora", "prefix"],
)
def test_a_checkpoint_of_peft_loads_by_itself(config, tmp_path, tiny_model, inputs_for, outputs):
    inputs = inputs_for("bert")
    theirs = get_peft_model(tiny_model("bert"), config).eval()
    theirs.save_pretrained(tmp_path)
    model = tiny_model("bert")
    Delta.load(tmp_path, model).attach(model)
    assert torch.allclose(outputs(model, inputs), outputs(theirs, inputs), atol=1e-5)


def test_settings_are_those_of_the_method_unless_given():
    assert Delta(LoRA(rank=3), {}).settings["rank"] == 3
    assert Delta(LoRA(rank=3), {}, {"rank": 4}).settings == {"rank": 4}
