"""One module that is not what its card says is told, and hides nothing else."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file
from zoo_toys import module_of

from transfer.importing import import_checkpoint
from zoo import Zoo, ZooError


@pytest.fixture(params=["prefix", "soft-prompt"])
def stored(request, tmp_path):
    """A module in PEFT's layout without names of places, in a zoo with a stray file in another module."""
    zoo = Zoo(tmp_path / "zoo")
    (zoo.add(module_of("other")).folder / "stray").touch()
    return zoo, zoo.add(module_of(method=request.param))


def change(module, **fields):
    path = module.folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def check_is_told(zoo, module):
    problems = {problem.where for problem in zoo.verify()}
    assert len(problems) == 2
    assert f"modules/{module.id}" in problems
    with pytest.raises(ZooError):
        dict(Zoo(zoo.path).get(module.id).tensors())
    with pytest.raises(ZooError):
        import_checkpoint(module.folder)


@pytest.mark.parametrize("places", [None, 3, [], ["a", "a"], "lost", {"a": 1}])
def test_a_card_without_places(stored, places):
    zoo, module = stored
    settings = {name: value for name, value in module.card.settings.items() if name != "places"}
    change(module, settings=settings if places == "lost" else {**settings, "places": places})
    check_is_told(zoo, module)


@pytest.mark.parametrize("tensors", [{"another": torch.ones(2, 2)}, {"prompt_embeddings": torch.ones(7)}])
def test_a_file_without_the_tensor_or_with_one_of_another_shape(stored, tensors):
    zoo, module = stored
    path = module.folder / "adapter_model.safetensors"
    save_file(tensors, path)
    change(module, files={**module.record.files, path.name: hashlib.sha256(path.read_bytes()).hexdigest()})
    problems = zoo.verify()
    assert len(problems) == 2


def test_a_card_that_names_more_places_than_the_file_can_be_divided_among(tmp_path):
    zoo = Zoo(tmp_path / "zoo")
    module = zoo.add(module_of(method="prefix"))
    change(module, settings={**module.card.settings, "places": ["a", "b", "c"]})
    [problem] = zoo.verify()
    assert "3 places" in problem.what
