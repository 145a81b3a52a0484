"""Starts are told apart by their tensors, wherever the modules lie."""

from __future__ import annotations

import pytest
from zoo_toys import card_of, module_of, tensors_of

from transfer.ensembling.compatible import check_alike
from transfer.errors import DeltaError
from zoo import Module, Zoo
from zoo.shared_starts import Starts


@pytest.mark.parametrize("folder", ["modules", "others"])
@pytest.mark.parametrize(("seeds", "shared"), [((1, 2), False), ((1, 1), True)])
def test_exported_modules_share_a_start_only_if_its_tensors_are_equal(tmp_path, folder, seeds, shared):
    found, names = [], set()
    for number, seed in enumerate(seeds):
        zoo, start = Zoo(tmp_path / f"zoo{number}"), tensors_of("lora", seed)
        name = zoo.add_start("lora", {"rank": 2}, "a" * 64, start)
        stored = zoo.add(Module.new(card_of(f"task{number}", start=name), tensors_of("lora", 10 + number)))
        found.append(Module.load(zoo.export(stored.id, tmp_path / folder / stored.id)))
        names.add(found[-1].card.start)
    assert len(names) == 1
    assert Starts().shared(found) is shared


def test_in_a_zoo_each_start_is_read_once(tmp_path):
    zoo = Zoo(tmp_path)
    one, other = (zoo.add(module_of(seed=seed, start=True)) for seed in (1, 2))
    starts = Starts()
    known = starts.of(one)
    (tmp_path / "starts" / f"{one.card.start}.safetensors").unlink()
    assert starts.of(other) == known


def test_parallel_adapters_are_alike_by_what_each_place_reads(makes):
    def wired(places, reads):
        return makes.module("x", 1, "parallel-adapter", settings={"places": places, "input_places": reads})

    one = wired(["a", "b"], ["c", "d"])
    check_alike([one, wired(["b", "a"], ["d", "c"])])  # the same pairs in another order
    with pytest.raises(DeltaError, match="input_places"):
        check_alike([one, wired(["b", "a"], ["c", "d"])])
