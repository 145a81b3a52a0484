"""A module: its id is its content, its tensors are mapped and checked, its backbone is known."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo_toys import FINGERPRINT, card_of, module_of, signature_of, tensors_of

from zoo import ChecksumError, FingerprintError, Module, TensorError, UnknownModuleError, Zoo
from zoo.tensors import digest


@pytest.fixture
def stored(tmp_path):
    """A module with everything, in a zoo."""
    return Zoo(tmp_path).add(module_of(signature=signature_of(), start=True))


def test_the_id_is_task_method_and_a_hash_of_the_tensors():
    module = module_of(seed=3)
    assert re.fullmatch(r"boolq-lora-[0-9a-f]{8}", module.id)
    assert module.id == module_of(seed=3).id
    assert module.id != module_of(seed=4).id
    assert module.id.rpartition("-")[2] == module_of("trec", seed=3).id.rpartition("-")[2]


def test_the_hash_sees_names_dtypes_shapes_and_bytes_but_not_the_order():
    one = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
    assert digest(one) == digest(dict(reversed(one.items())))
    others = [
        {"a": torch.ones(3, 2), "b": torch.zeros(4)},
        {"a": torch.ones(2, 3), "c": torch.zeros(4)},
        {"a": torch.ones(2, 3).half(), "b": torch.zeros(4)},
        {"a": torch.ones(2, 3), "b": -torch.zeros(4)},
    ]
    assert len({digest(tensors) for tensors in [one, *others]}) == 5


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_tensors_that_are_not_finite_are_refused_by_name(value):
    tensors = tensors_of("lora")
    name = sorted(tensors)[3]
    tensors[name][0, 0] = value
    with pytest.raises(TensorError, match=re.escape(name)):
        Module.new(card_of(), tensors)


def test_integers_empty_tensors_and_other_things_are_refused():
    integers, booleans = torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.bool)
    for wrong in (integers, booleans, torch.ones(0, 16), [1.0], torch.ones(2, 16).to_sparse()):
        tensors = tensors_of("lora")
        tensors[sorted(tensors)[0]] = wrong
        with pytest.raises(TensorError):
            Module.new(card_of(), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "bitfit", "soft-prompt", "sora", "other"])
def test_tensors_come_back_bit_for_bit_in_their_dtype(tmp_path, method, dtype):
    tensors = tensors_of(method, dtype=dtype)
    found = Zoo(tmp_path).add(Module.new(card_of(method=method), tensors)).tensors()
    assert set(found) == set(tensors)
    assert len(found) == len(tensors)
    assert all(found[name].dtype == dtype and torch.equal(found[name], tensors[name]) for name in tensors)


def test_tensors_cast_when_asked(stored):
    cast = stored.tensors(dtype=torch.float32)
    assert {tensor.dtype for tensor in cast.values()} == {torch.float32}
    assert {tensor.dtype for tensor in module_of().tensors(torch.float32).values()} == {torch.float32}


def _mapped(path):
    return str(path) in open("/proc/self/maps").read()


def test_tensors_are_mapped_not_read(stored):
    path = stored.folder / "adapter_model.safetensors"
    tensors = stored.tensors()
    first = tensors[next(iter(tensors))]
    assert _mapped(path)
    size = sum(tensor.numel() * 2 for tensor in tensors.values())
    assert first.untyped_storage().nbytes() < size


def test_writing_into_a_mapped_tensor_leaves_the_file_alone(stored):
    name = next(iter(stored.tensors()))
    before = stored.tensors()[name].clone()
    stored.tensors()[name].zero_()
    assert torch.equal(Module.load(stored.folder).tensors()[name], before)


def test_a_changed_file_is_noticed_before_its_tensors_are_used(stored):
    path = stored.folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"adapter_model\.safetensors"):
        stored.tensors()


def test_a_changed_config_signature_or_start_is_noticed(tmp_path):
    zoo = Zoo(tmp_path)
    for change, read in (
        ("adapter_config.json", lambda module: module.tensors()),
        ("signature.safetensors", lambda module: module.signature),
    ):
        module = zoo.add(module_of(signature=signature_of()))
        (module.folder / change).write_bytes((module.folder / change).read_bytes() + b" ")
        with pytest.raises(ChecksumError, match=change):
            read(zoo.get(module.id))
        zoo.remove(module.id)
    module = zoo.add(module_of(signature=signature_of(), start=True))
    for folder, read in (
        ("signatures", lambda module: module.signature),
        ("starts", lambda module: dict(module.start())),
    ):
        path = next((tmp_path / folder).iterdir())
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ChecksumError, match=folder):
            read(zoo.get(module.id))


def test_signature_and_start_come_back(stored):
    assert stored.signature.holds == signature_of().holds
    assert stored.signature.weight_sketch.tolist() == signature_of().weight_sketch.tolist()
    start = stored.start()
    assert all(start[name].dtype == torch.float32 for name in start)
    assert all(torch.equal(start[name], tensor.float()) for name, tensor in tensors_of("lora", 999).items())


def test_a_module_without_signature_and_start_says_so_by_what_it_gives(tmp_path):
    for module in (module_of(), Zoo(tmp_path).add(module_of())):
        assert not module.signature
        assert module.start() is None


def test_a_foreign_backbone_is_refused_unless_forced(stored):
    stored.check_fits(FINGERPRINT, "tiny")
    stored.check_fits("b" * 64, "other", force=True)
    with pytest.raises(
        FingerprintError, match=r"(?s)not trained on the backbone 'other'.*'tiny'.*aaaaaaaa.*bbbbbbbb.*--force"
    ):
        stored.check_fits("b" * 64, "other")


def test_modules_pickle_small_and_read_again_on_the_other_side(stored):
    assert stored.signature
    sent = pickle.dumps(stored)
    assert len(sent) < 3000
    again = pickle.loads(sent)
    assert again == stored
    assert again.signature == stored.signature
    tensors = pickle.loads(pickle.dumps(stored.tensors()))
    assert all(torch.equal(tensors[name], tensor) for name, tensor in stored.tensors().items())


def test_a_removed_module_says_so(tmp_path, stored):
    Zoo(tmp_path).remove(stored.id)
    with pytest.raises(UnknownModuleError, match="removed meanwhile"):
        stored.tensors()


def test_load_wants_a_card(tmp_path):
    with pytest.raises(UnknownModuleError, match=r"card\.json"):
        Module.load(tmp_path)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), method=st.sampled_from(["lora", "adapter", "prefix"]))
def test_any_module_survives_the_way_through_a_zoo(tmp_path_factory, seed, method):
    module = module_of(method=method, seed=seed)
    stored = Zoo(tmp_path_factory.mktemp("zoo")).add(module)
    assert stored == module
    assert digest(dict(stored.tensors())) == digest(dict(module.tensors()))
