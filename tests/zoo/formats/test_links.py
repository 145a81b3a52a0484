"""Links in a stranger's folder are followed where they stay with the checkpoint: in its folder, in the Hub's cache."""

from __future__ import annotations

import pytest
import torch
from zoo_toys import card_of, settings_of, tensors_of

from zoo import FormatError, Module, PathError, Zoo
from zoo.formats import native, peft
from zoo.formats.pickles import open_weights, write_pickle


def written(folder):
    """A PEFT LoRA folder."""
    peft.write(folder, "lora", settings_of("lora"), tensors_of("lora"), "tiny")
    return folder


def cached(folder, files):
    """The files as the cache of the Hugging Face Hub has them: links out of a snapshot into the model's blobs."""
    model = folder / "models--someone--lora"
    snapshot = model / "snapshots" / "0123abcd" / "adapter"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(files):
        path.rename(model / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../../blobs/{number}")
    return snapshot


def test_a_checkpoint_in_the_cache_of_the_hub_is_read(tmp_path):
    expected = dict(peft.read(written(tmp_path)).tensors)
    found = peft.read(cached(tmp_path, list(tmp_path.iterdir()))).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_so_are_a_pickle_and_a_delta_of_ours(tmp_path):
    tensors = tensors_of("bitfit")
    native.write(tmp_path, "bitfit", settings_of("bitfit"), tensors, "tiny")
    write_pickle(tmp_path / "a.bin", tensors)
    snapshot = cached(tmp_path, list(tmp_path.iterdir()))
    pickled = open_weights(snapshot, "a.safetensors", "a.bin", True, "save")
    for found in (native.read(snapshot).tensors, pickled):
        assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_links_are_followed_within_their_folder_and_no_farther(tmp_path):
    folder, secret = written(tmp_path), tmp_path.parent / f"{tmp_path.name}-secret.json"
    config = folder / "adapter_config.json"
    config.rename(folder / "real.json")
    config.symlink_to("real.json")
    assert peft.read(folder).method == "lora"
    (folder / "real.json").rename(secret)
    for target in (secret, folder / "by.json"):
        (folder / "by.json").unlink(missing_ok=True)
        (folder / "by.json").symlink_to(secret)
        config.unlink()
        config.symlink_to(target)
        with pytest.raises(PathError, match=r"(?s)link out of its folder.*secret\.json.*cp -rL"):
            peft.read(folder)
    (folder / "by.json").unlink()
    (folder / "by.json").symlink_to("adapter_config.json")
    config.unlink()
    config.symlink_to("by.json")
    with pytest.raises(PathError, match="leads nowhere"):
        peft.read(folder)
    (folder / "by.json").unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        peft.read(folder)


def test_blobs_that_are_a_link_themselves_lead_nowhere(tmp_path):
    written(tmp_path)
    snapshot = cached(tmp_path, list(tmp_path.iterdir()))
    model = snapshot.parents[2]
    (model / "blobs").rename(tmp_path / "elsewhere")
    (model / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PathError, match="out of its folder"):
        peft.read(snapshot)


def test_a_stored_module_has_no_links(tmp_path):
    stored = Zoo(tmp_path / "zoo").add(Module.new(card_of(), tensors_of("lora")))
    path = stored.folder / "adapter_model.safetensors"
    path.rename(stored.folder / "real")
    path.symlink_to("real")
    with pytest.raises(PathError, match=r"(?s)plain files only.*cp -rL"):
        stored.tensors()
