from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from transfer.deltas import METHODS, Delta, LoRA
from transfer.errors import DeltaError


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


def test_settings_are_those_of_the_method_unless_given():
    assert Delta(LoRA(rank=3), {}).settings["rank"] == 3
    assert Delta(LoRA(rank=3), {}, {"rank": 4}).settings == {"rank": 4}
