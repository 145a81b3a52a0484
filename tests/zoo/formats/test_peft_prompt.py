"""Soft prompts in PEFT's layout, by hand."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_toys import card_of, settings_of, tensors_of

from zoo import FormatError, Module, Zoo
from zoo.formats import peft
from zoo.formats.peft_prompt import config

PLACE = "embeddings.word_embeddings"


def folder_of(tmp_path, tensor=None, **changed):
    peft.write(tmp_path, "soft-prompt", settings_of("soft-prompt"), tensors_of("soft-prompt"), "tiny")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    if tensor is not None:
        save_file(tensor, tmp_path / "adapter_model.safetensors")
    return tmp_path


def test_on_disk_it_is_one_tensor(tmp_path):
    stored = Zoo(tmp_path / "zoo").add(Module.new(card_of(method="soft-prompt"), tensors_of("soft-prompt")))
    inside = load_file(stored.folder / "adapter_model.safetensors")
    assert list(inside) == ["prompt_embeddings"]
    assert torch.equal(stored.tensors()[f"{PLACE}.prompt_embeddings"], inside["prompt_embeddings"])
    said = json.loads((stored.folder / "adapter_config.json").read_text())
    assert (said["num_virtual_tokens"], said["token_dim"], said["num_transformer_submodules"]) == (3, 16, 1)


@pytest.mark.parametrize(
    ("place", "kind", "task"),
    [
        (PLACE, None, "FEATURE_EXTRACTION"),
        ("transformer.wte", None, "CAUSAL_LM"),
        ("model.embed_tokens", None, "CAUSAL_LM"),
        ("encoder.embed_tokens", None, "SEQ_2_SEQ_LM"),
        ("model.shared", None, "SEQ_2_SEQ_LM"),
        ("model.embed_tokens", "encoder", "FEATURE_EXTRACTION"),
    ],
)
def test_the_task_type_is_that_of_the_kind_or_read_off_the_place(place, kind, task):
    settings = {**settings_of("soft-prompt"), "places": [place]}
    assert config(settings, {f"{place}.prompt_embeddings": torch.ones(3, 16)}, kind)["task_type"] == task


def test_the_half_that_peft_never_reads_is_left_out(tmp_path):
    whole = torch.arange(6 * 16.0).view(6, 16)
    folder = folder_of(tmp_path, {"prompt_embeddings": whole}, num_transformer_submodules=2)
    read = peft.read(folder, None, [PLACE])
    assert torch.equal(read.tensors[f"{PLACE}.prompt_embeddings"], whole[:3])
    assert "3 of 6 vectors" in read.notes[0]


@pytest.mark.parametrize(
    ("tensor", "changed", "places", "said"),
    [
        ({"other": torch.ones(3, 16)}, {}, [PLACE], "no prompt_embeddings"),
        ({"prompt_embeddings": torch.ones(4, 16)}, {}, [PLACE], "shape"),
        ({"prompt_embeddings": torch.ones(3, 4, 4)}, {}, [PLACE], "shape"),
        (None, {"num_virtual_tokens": "3"}, [PLACE], "not a count"),
        (None, {"num_transformer_submodules": "many"}, [PLACE], "parts of the model"),
        (None, {}, None, "does not say where it goes"),
        (None, {}, [PLACE, "other"], "does not say where it goes"),
    ],
)
def test_broken_checkpoints_are_refused_by_name(tmp_path, tensor, changed, places, said):
    with pytest.raises(FormatError, match=said):
        peft.read(folder_of(tmp_path, tensor, **changed), None, places)


def test_a_prompt_at_two_places_stays_in_our_format():
    settings = {**settings_of("soft-prompt"), "places": [PLACE, "other"]}
    assert not peft.fits("soft-prompt", settings, {})
