"""Our own format: any method's tensors under their own names."""

from __future__ import annotations

import json

import pytest
import torch
from zoo_toys import card_of, settings_of, tensors_of

from zoo import FormatError, Module, TensorError, Zoo
from zoo.formats import detect, format_for, native


@pytest.mark.parametrize("method", ["adapter", "low-rank-adapter", "compacter", "bitfit", "other"])
def test_what_is_written_is_read_again(tmp_path, method):
    settings, tensors = settings_of(method), tensors_of(method)
    assert native.write(tmp_path, method, settings, tensors, "tiny") == ["delta_config.json", "delta.safetensors"]
    found = native.read(tmp_path)
    assert (found.method, found.settings, found.backbone) == (method, settings, "tiny")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert detect(tmp_path) is native
    assert format_for(method, settings, tensors) is native


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(32.0)
    tensors = {"a.weight": whole[:16], "b.weight": whole[16:], "c.weight": whole.view(2, 16).T}
    native.write(tmp_path, "any", {}, tensors, "tiny")
    found = native.open_tensors(tmp_path, "any", {})
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path):
    tensors = tensors_of("adapter")
    for name, order in (("a", list(tensors)), ("b", list(reversed(tensors)))):
        (tmp_path / name).mkdir()
        native.write(tmp_path / name, "adapter", settings_of("adapter"), {n: tensors[n] for n in order}, "tiny")
    read = [(tmp_path / name / "delta.safetensors").read_bytes() for name in "ab"]
    assert read[0] == read[1]


@pytest.mark.parametrize("changed", [{"version": 2}, {"method": 3}, {"settings": None}])
def test_a_config_that_is_not_ours_is_refused(tmp_path, changed):
    native.write(tmp_path, "adapter", settings_of("adapter"), tensors_of("adapter"), "tiny")
    path = tmp_path / "delta_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(FormatError):
        native.read(tmp_path)


def test_a_missing_config_and_broken_tensors_are_typed_errors(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        native.read(tmp_path)
    native.write(tmp_path, "adapter", settings_of("adapter"), tensors_of("adapter"), "tiny")
    (tmp_path / "delta.safetensors").write_bytes(b"x" * 9)
    with pytest.raises(TensorError):
        native.read(tmp_path)


def test_an_adapter_in_a_zoo_lies_in_our_format(tmp_path):
    stored = Zoo(tmp_path).add(Module.new(card_of(method="adapter"), tensors_of("adapter")))
    assert sorted(path.name for path in stored.folder.iterdir()) == [
        "card.json",
        "delta.safetensors",
        "delta_config.json",
    ]
