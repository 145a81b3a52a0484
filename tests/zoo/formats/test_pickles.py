"""Pickles of strangers: tensors by name are read, everything else is refused before it can do harm."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from zoo import FormatError, PathError, TensorError
from zoo.formats.pickles import PickleTensors, open_weights, write_pickle
from zoo.tensors import MAX_HEADER, FileTensors, write_tensors

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


class Bomb:
    """Runs a command when a pickle of it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def rewritten(path, change):
    """The same archive, with the parts that `change(name, content)` gives."""
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


def test_what_torch_saves_is_read(tmp_path):
    torch.save(TENSORS, tmp_path / "a.bin")
    found = PickleTensors(tmp_path / "a.bin")
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
    assert found.shapes() == {"a.weight": (2, 3), "b": (4,)}
    assert PickleTensors(tmp_path / "a.bin", torch.float64)["b"].dtype == torch.float64
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again["a.weight"], TENSORS["a.weight"])


def test_what_is_written_is_read(tmp_path):
    whole = torch.arange(32.0)
    shared = {"a": whole[:16], "b": whole[16:], "c": whole.view(2, 16).T}
    write_pickle(tmp_path / "a.bin", shared)
    found = torch.load(tmp_path / "a.bin")
    assert all(torch.equal(found[name], value) for name, value in shared.items())
    assert (tmp_path / "a.bin").stat().st_size < 4096  # each tensor is written by itself, not the whole behind it
    assert all(torch.equal(PickleTensors(tmp_path / "a.bin")[name], value) for name, value in shared.items())


@pytest.mark.parametrize("kind", ["value", "name", "nested", "alone", "plain pickle"])
def test_a_bomb_does_not_go_off(kind, tmp_path):
    mark, path = tmp_path / "owned", tmp_path / "a.bin"
    bomb = Bomb(mark)
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps({"a": bomb}))
    else:
        torch.save(
            {"value": {"a": bomb}, "name": {bomb: TENSORS["b"]}, "nested": {"a": [bomb]}, "alone": bomb}[kind], path
        )
    with pytest.raises(TensorError, match="not a pickle of tensors"):
        PickleTensors(path)
    assert not mark.exists()
    assert path.exists()


@pytest.mark.parametrize("content", [[TENSORS["b"]], {}, {"a": 3}, {1: TENSORS["b"]}, {"a": TENSORS}, TENSORS["b"]])
def test_anything_but_tensors_by_name_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(TensorError, match="does not hold tensors by name"):
        PickleTensors(tmp_path / "a.bin")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"x" * 1000])
def test_what_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(TensorError, match="not a pickle of tensors"):
        PickleTensors(tmp_path / "a.bin")


def test_files_of_before_torch_1_6_say_how_to_go_on(tmp_path):
    torch.save(TENSORS, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(TensorError, match=r"(?s)no zip archive, as torch writes since 1\.6.*save it again"):
        PickleTensors(tmp_path / "a.bin")


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1 << 16)}, tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "a.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert (tmp_path / "a.bin").stat().st_size < 4096
    with pytest.raises(TensorError, match="unpacks to more"):
        PickleTensors(tmp_path / "a.bin")


def test_a_storage_that_is_shorter_than_it_says_is_refused(tmp_path):
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.bin")
    rewritten(tmp_path / "a.bin", lambda name, content: content[:8] if name.endswith("data/0") else content)
    with pytest.raises(TensorError):
        PickleTensors(tmp_path / "a.bin")


def test_a_storage_that_is_missing_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "a.bin")
    rewritten(tmp_path / "a.bin", lambda name, content: None if name.endswith("data/0") else content)
    with pytest.raises(TensorError, match="not a pickle of tensors"):
        PickleTensors(tmp_path / "a.bin")


def test_one_value_spread_over_a_large_shape_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "a.bin")
    with pytest.raises(TensorError, match=r"(?s)shape \(1048576, 1048576\).*the file has"):
        PickleTensors(tmp_path / "a.bin")


def test_an_index_that_fills_the_memory_is_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "a.bin")
    rewritten(tmp_path / "a.bin", lambda n, c: c + b"." * (MAX_HEADER + 1) if n.endswith("data.pkl") else c)
    with pytest.raises(TensorError, match="bytes of names"):
        PickleTensors(tmp_path / "a.bin")


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([torch.nan]),
        torch.tensor([1.0, torch.inf]),
        torch.arange(3),
        torch.zeros(0),
        torch.eye(2).to_sparse(),
    ],
)
def test_tensors_that_cannot_be_a_delta_s_are_refused_on_access(value, tmp_path):
    torch.save({"a": value}, tmp_path / "a.bin")
    with pytest.raises(TensorError):
        PickleTensors(tmp_path / "a.bin")["a"]


def test_the_safe_file_goes_first_and_the_pickle_needs_leave(tmp_path):
    with pytest.raises(FormatError, match=r"has no a\.safetensors"):
        open_weights(tmp_path, "a.safetensors", "a.bin", True, "save(x)")
    torch.save(TENSORS, tmp_path / "a.bin")
    with pytest.raises(FormatError, match=r"(?s)a pickle.*save\(x\).*--allow-pickle"):
        open_weights(tmp_path, "a.safetensors", "a.bin", False, "save(x)")
    assert isinstance(open_weights(tmp_path, "a.safetensors", "a.bin", True, "save(x)"), PickleTensors)
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    assert type(open_weights(tmp_path, "a.safetensors", "a.bin", True, "save(x)")) is FileTensors


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    torch.save(TENSORS, tmp_path / "real")
    (folder / "a.bin").symlink_to(tmp_path / "real")
    with pytest.raises(PathError, match="link"):
        open_weights(folder, "a.safetensors", "a.bin", True, "save(x)")


def test_a_header_that_fills_the_memory_is_refused(tmp_path: Path):
    length = 17 << 20
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write(length.to_bytes(8, "little") + b'{"x":' + b" " * (length - 6) + b"}")
    with pytest.raises(TensorError, match=r"(?s)be read.*header has 17,825,792 bytes"):
        FileTensors(tmp_path / "a.safetensors")
