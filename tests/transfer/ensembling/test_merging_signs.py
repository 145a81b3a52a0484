"""ties, dare, task-arithmetic and aligned: by hand, seeded, and with memory that does not grow."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from transfer.deltas.delta import Delta
from transfer.ensembling import MERGES, merge
from transfer.ensembling import streaming as streaming_file
from transfer.ensembling.election import Election, trim
from transfer.errors import DeltaError
from zoo import Zoo
from zoo.tensors import FileTensors


def around(start, changes):
    return {name: tensor + changes(name, tensor) for name, tensor in start.items()}


def test_election_by_hand():
    election = Election((3,))
    election.add(torch.tensor([[4.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]), torch.tensor([0.5, 0.5]))
    election.add(torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([1.0]))
    # First value: 2 - 0.5 - 2 < 0, so the second and third agree: (-0.5 - 2) / 1.5 * 2. Second: (0.5 + 0.5) / 1 * 2.
    torch.testing.assert_close(election.merged(), torch.tensor([-2.5 / 1.5 * 2, 2.0, 0.0]))


def test_ties_equals_peft_for_equal_weights_up_to_its_missing_normalisation():
    """PEFT multiplies by the weights, then takes the mean of those that agree; ours is that mean times n."""
    utils = pytest.importorskip("peft.utils.merge_utils")
    generator = torch.Generator().manual_seed(0)
    changes = [torch.randn(6, 7, generator=generator) for _ in range(5)]
    weights = torch.full((5,), 0.2)
    theirs = utils.ties([change.clone() for change in changes], weights, 0.5, "total")
    election = Election((6, 7))
    election.add(trim(torch.stack(changes), 0.5), weights)
    torch.testing.assert_close(election.merged(), theirs * 5, rtol=1e-5, atol=1e-6)


def test_trim_keeps_the_largest_share_of_each_row():
    rows = torch.tensor([[1.0, -5.0, 2.0, 0.5], [0.0, 1.0, -3.0, 2.0]])
    assert trim(rows, 0.5).tolist() == [[0, -5, 2, 0], [0, 0, -3, 2]]


def test_dare_depends_on_the_id_and_the_seed_and_keeps_the_mean(makes):
    modules = makes.modules(2)
    weights = {module.id: 0.5 for module in modules}
    once, again, other = (merge(modules, weights, "dare", seed=seed).tensors for seed in (0, 0, 1))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)
    draws = [merge(modules[:1], {modules[0].id: 1.0}, "dare", seed=seed).tensors["a.lora_A"] for seed in range(300)]
    torch.testing.assert_close(torch.stack(draws).mean(dim=0), modules[0].tensors()["a.lora_A"], rtol=0, atol=0.5)


def test_task_arithmetic_subtracts_and_scales(makes):
    one, two = makes.modules(2)
    start = makes.tensors()
    found = merge([one, two], {one.id: 1.0, two.id: -0.5}, "task-arithmetic", scale=2.0)
    for name, tensor in start.items():
        expected = tensor + 2 * ((one.tensors()[name] - tensor) - 0.5 * (two.tensors()[name] - tensor))
        torch.testing.assert_close(found.tensors[name], expected, rtol=1e-5, atol=1e-5)


def test_published_is_the_raw_sum(makes):
    one, two = makes.modules(2)
    found = merge([one, two], {one.id: 0.5, two.id: 1.5}, "published")
    for name in found.tensors:
        torch.testing.assert_close(found.tensors[name], 0.5 * one.tensors()[name] + 1.5 * two.tensors()[name])


def shuffled(tensors, seed):
    order = torch.randperm(2, generator=torch.Generator().manual_seed(seed)) if seed else torch.tensor([1, 0])
    found = dict(tensors)
    for place in ("a", "b"):
        found[f"{place}.adapter_down.weight"] = tensors[f"{place}.adapter_down.weight"][order]
        found[f"{place}.adapter_down.bias"] = tensors[f"{place}.adapter_down.bias"][order]
        found[f"{place}.adapter_up.weight"] = tensors[f"{place}.adapter_up.weight"][:, order]
    return found


def test_aligned_undoes_another_order_of_hidden_units_and_linear_does_not(makes):
    one = makes.module("one", 4, "adapter", start=None)
    two = makes.module("two", 0, "adapter", start=None, tensors=shuffled(one.tensors(), 0))
    weights = {one.id: 0.6, two.id: 0.4}
    aligned, plain = (merge([one, two], weights, how).tensors for how in ("aligned", "linear"))
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(aligned[name], tensor, rtol=1e-5, atol=1e-5)
    assert any(not torch.allclose(plain[name], tensor, atol=0.1) for name, tensor in one.tensors().items())


def test_aligned_wants_an_average(makes):
    modules = makes.modules(2, "adapter")
    with pytest.raises(DeltaError, match="at least 0 and sum to 1"):
        merge(modules, {module.id: 0.7 for module in modules}, "aligned")


@pytest.mark.parametrize("how", ["linear", "task-arithmetic", "ties", "dare", "svd"])
def test_no_more_tensors_are_held_for_more_modules(how, makes, tmp_path, monkeypatch):
    """Tensors of stored modules that are alive at once, whatever the number of modules."""
    zoo = Zoo(tmp_path)
    modules = [zoo.get(zoo.add(module).id) for module in makes.modules(12)]
    alive: list[weakref.ref] = []
    most = 0
    read = FileTensors.stored

    def stored(self, name):
        nonlocal most
        found = read(self, name)
        alive.append(weakref.ref(found))
        if "starts" not in str(self.path):
            most = max(most, sum(other() is not None for other in alive))
        return found

    monkeypatch.setattr(FileTensors, "stored", stored)
    monkeypatch.setattr(streaming_file, "CHUNK", 16)
    held = []
    for n in (3, 12):
        gc.collect()
        alive.clear()
        most = 0
        merge(modules[:n], {module.id: 1 / n for module in modules[:n]}, how)
        assert len(alive) >= 4 * n
        held.append(most)
    assert held[0] == held[1] <= 8


@pytest.mark.parametrize("how", MERGES.names())
def test_small_chunks_give_the_same(how, makes, monkeypatch):
    if how == "regmean":
        return
    method = "adapter" if how == "aligned" else "lora"
    modules = makes.modules(5, method)
    weights = {module.id: 0.2 for module in modules}
    whole = merge(modules, weights, how).tensors
    monkeypatch.setattr(streaming_file, "CHUNK", 16)
    for name, tensor in merge(modules, weights, how).tensors.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-5, atol=1e-5)


def test_the_merge_of_a_delta_in_a_zoo_leaves_it_as_it_was(makes):
    (one,) = makes.modules(1)
    before = {name: tensor.clone() for name, tensor in one.tensors().items()}
    for how in ("ties", "dare", "svd", "knots"):
        merged = merge([one], {one.id: 0.5}, how)
        assert isinstance(merged, Delta)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.tensors().items())


def test_ties_keeps_the_largest_share_of_the_changes(makes):
    module = makes.module("one", 1)
    start = module.start()
    found = merge([module], {module.id: 1.0}, "ties", density=0.25).tensors
    for name, tensor in module.tensors(torch.float32).items():
        change = (tensor - start[name]).flatten()
        kept = (found[name] - start[name]).flatten()
        n = round(0.25 * change.numel())
        largest = change.abs().argsort(descending=True)[:n]
        assert sorted(kept.nonzero().flatten().tolist()) == sorted(largest.tolist())
        torch.testing.assert_close(kept[largest], change[largest])
    assert MERGES.get("ties")().density == MERGES.get("knots")().density == 0.2


def test_dare_ties_drops_at_random_by_its_seed(makes):
    module = makes.module("one", 1, tensors={"a.lora_A": torch.ones(40, 40), "a.lora_B": torch.ones(40, 40)},
                          start={"a.lora_A": torch.zeros(40, 40), "a.lora_B": torch.zeros(40, 40)},
                          settings={"rank": 40, "alpha": 40, "places": ["a"]})  # fmt: skip
    first, again, other = (
        merge([module], {module.id: 1.0}, "dare-ties", density=0.25, seed=seed).tensors["a.lora_A"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float((first == 0).float().mean()) == pytest.approx(0.75, abs=0.05)
    assert set(first.unique().tolist()) == {0.0, 4.0}
