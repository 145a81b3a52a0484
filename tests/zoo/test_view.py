"""Several zoos read as one."""

from __future__ import annotations

import pytest
import torch
from zoo_toys import FINGERPRINT, module_of, tensors_of

from zoo import UnknownModuleError, Zoo, ZooView


@pytest.fixture
def zoos(tmp_path):
    own, shipped = Zoo(tmp_path / "own"), Zoo(tmp_path / "shipped")
    own.add(module_of("boolq", license="mine"))
    own.add(module_of("trec"))
    shipped.add(module_of("boolq", license="theirs"))
    shipped.add(module_of("rte", start=True))
    return own, Zoo(shipped.path, read_only=True)


def test_a_view_has_all_modules_once_and_the_first_zoo_goes_before(zoos):
    view = ZooView(zoos)
    assert [module.card.task for module in view] == ["boolq", "rte", "trec"]
    assert len(view) == 3
    assert view.ids() == sorted(view.ids())
    assert view.find(task="boolq")[0].card.license == "mine"
    assert view.get(view.ids()[0]).card.license == "mine"
    assert view.find(task="rte", method="lora")[0] in view
    assert view.counts() == [("lora", "tiny", FINGERPRINT, 3)]


def test_an_unknown_id_names_all_zoos_and_proposes_from_all(zoos):
    rte = ZooView(zoos).find(task="rte")[0].id
    with pytest.raises(UnknownModuleError, match=rf"(?s)own or .*shipped.*3 modules.*{rte[:-1]}"):
        ZooView(zoos).get(rte[:-1] + ("0" if rte[-1] != "0" else "1"))


def test_starts_are_found_in_any(zoos):
    view = ZooView(zoos)
    name = view.find(task="rte")[0].card.start
    assert view.has_start(name)
    assert torch.equal(
        view.get_start(name)[f"{next(iter(tensors_of('lora')))}"], next(iter(tensors_of("lora", 999).values())).float()
    )
    assert view.find_start("lora", {"a": 1}, FINGERPRINT) is None
    with pytest.raises(UnknownModuleError, match="2 zoos"):
        view.get_start("lora-00000000-00000000")


def test_a_view_of_views_and_of_nothing(zoos):
    assert ZooView([ZooView(zoos), zoos[0]]).ids() == ZooView(zoos).ids()
    with pytest.raises(ValueError, match="at least one"):
        ZooView([])
