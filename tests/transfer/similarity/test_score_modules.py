"""score, find_sources, Scores, and going through modules on one backbone."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from transfer.deltas import METHODS, Adapter, LoRA, Prefix
from transfer.errors import BackboneError, ConfigError, SourceError, UnknownNameError
from transfer.similarity import ESTIMATORS, Scores, find_sources, score
from transfer.similarity.switching import over_modules
from zoo import Zoo


def test_score_of_a_stored_zoo_is_that_of_the_modules_in_memory(world, toys, tmp_path):
    backbone, _, modules = world()
    zoo = Zoo(tmp_path / "zoo")
    for module in modules:
        zoo.add(module)
    for name in ("gradient", "embedding:mmd", "neighbours", "parameters", "prediction"):
        stored, memory = (
            score(toys.task(), zoo, backbone, estimator=name),
            score(toys.task(), modules, backbone, estimator=name),
        )
        assert sorted(stored.ids) == sorted(memory.ids)
        for module_id, value in memory.as_dict().items():
            assert stored.as_dict()[module_id] == pytest.approx(value, rel=1e-2, abs=1e-3)  # examples are fp16 there


def test_score_takes_a_target_and_says_what_it_did(world, toys):
    backbone, _, modules = world()
    scores = score(toys.target(backbone, modules), modules, backbone, estimator="gradient")
    assert scores.estimator == "gradient:first-order"
    assert scores.ids == [module.id for module in modules]
    assert scores.seconds > 0


def test_score_of_a_target_is_of_its_method_and_its_backbone(toys):
    backbone = tiny.tiny_backbone("bert")
    adapters = toys.modules(backbone, Adapter())
    target = toys.target(backbone, adapters, "adapter")
    everything = [*adapters, *toys.modules(backbone, LoRA())]
    assert score(target, everything).ids == [module.id for module in adapters]
    with pytest.raises(ConfigError, match="made for 'adapter', not for 'lora'"):
        score(target, everything, method="lora")
    with pytest.raises(ConfigError, match="another backbone"):
        score(target, everything, tiny.tiny_backbone("bert", seed=1))


def test_equal_tensors_of_other_settings_are_not_taken_for_one_module(toys):
    backbone, method = tiny.tiny_backbone("bert"), LoRA(rank=2, alpha=16)
    tensors = toys.moved(method.draw(backbone.model), 0.5, 1)
    one, other = (toys.module(backbone, LoRA(rank=2, alpha=alpha), tensors) for alpha in (16, -16))
    assert one.id == other.id
    target = toys.target(backbone, [one])
    for name in ("prediction:loss", "prediction:el2n"):
        first, second = (float(ESTIMATORS.get(name)().score(target, [module])[0]) for module in (one, other))
        alone = float(ESTIMATORS.get(name)().score(toys.target(backbone, [other]), [other])[0])
        assert second == pytest.approx(alone)
        assert first != pytest.approx(second)


def test_score_takes_a_tasks_name(world):
    backbone, _, modules = world()
    assert len(score("sentiment", modules, backbone, estimator="embedding")) == 3


def test_score_takes_a_zoos_folder_and_a_backbones_name_as_initialize_does(world, toys, tmp_path, monkeypatch):
    backbone, _, modules = world()
    for module in modules:
        Zoo(tmp_path / "zoo").add(module)
    expected = score(toys.task(), Zoo(tmp_path / "zoo"), backbone).as_dict()
    for folder in (tmp_path / "zoo", str(tmp_path / "zoo")):
        assert score(toys.task(), folder, backbone).as_dict() == expected
    assert len(find_sources(tmp_path / "zoo", backbone)) == 3
    monkeypatch.setenv("TRANSFER_ZOO", str(tmp_path / "zoo"))
    assert score(toys.target(backbone, modules)).as_dict() == pytest.approx(expected)  # its backbone, the user's zoo
    with pytest.raises(BackboneError, match="no-such-backbone"):
        score(toys.task(), modules, str(tmp_path / "no-such-backbone"))


def test_a_negative_seed_is_refused(world, toys):
    backbone, _, modules = world()
    with pytest.raises(ConfigError, match=r"seed must be at least 0 .*, got -1"):
        score(toys.task(), modules, backbone, seed=-1)


def test_the_targets_own_task_is_left_out_whatever_exclude_names(world, toys):
    backbone, method, modules = world()
    own = toys.module(backbone, method, toys.moved(method.draw(backbone.model), 0.1, 9), "toy")
    everything = [own, *modules]
    ids = [module.id for module in modules]
    for target in (toys.task(), toys.target(backbone, everything)):
        assert score(target, everything, backbone).ids == ids
        assert score(target, everything, backbone, exclude=ids[0]).ids == ids[1:]
        assert score(target, everything, backbone, exclude=["source-0", ids[1]]).ids == ids[2:]
        assert score(target, everything, backbone, include_own=True).ids == [own.id, *ids]
        assert score(target, everything, backbone, exclude=ids, include_own=True).ids == [own.id]


def test_a_module_that_is_given_twice_is_scored_once(world, toys):
    backbone, _, modules = world()
    scores = score(toys.task(), [*modules, modules[0]], backbone)
    assert scores.ids == [module.id for module in modules]


def test_unknown_estimator_suggests_the_close_name(world, toys):
    backbone, _, modules = world()
    with pytest.raises(UnknownNameError, match="did you mean 'embedding'"):
        score(toys.task(), modules, backbone, estimator="embeding")


def test_exclude_takes_tasks_and_ids(world):
    backbone, _, modules = world()
    left = find_sources(modules, backbone, exclude=["source-0", modules[1].id])
    assert left == [modules[2]]
    assert find_sources(modules, backbone, exclude="source-0") == modules[1:]


def test_only_modules_of_the_method_and_the_backbone_are_found(toys, tmp_path):
    backbone, other = tiny.tiny_backbone("bert"), tiny.tiny_backbone("bert", seed=1)
    everything = [
        *toys.modules(backbone, LoRA(), n=2),
        *toys.modules(backbone, Adapter(), n=1),
        *toys.modules(other, LoRA(), n=1, by=0.3),  # other tensors, so another id
    ]
    zoo = Zoo(tmp_path / "zoo")
    for module in everything:
        zoo.add(module)
    for source in (everything, zoo):
        assert {m.id for m in find_sources(source, backbone)} == {m.id for m in everything[:2]}
        assert {m.id for m in find_sources(source, backbone, Adapter())} == {everything[2].id}
        assert len(find_sources(source, backbone, force=True)) == 3


def test_nothing_that_fits_says_what_is_there_and_how_to_build(toys, tmp_path):
    backbone, other = tiny.tiny_backbone("bert"), tiny.tiny_backbone("bert", seed=1)
    everything = [*toys.modules(backbone, Adapter(), n=2), *toys.modules(other, LoRA(), n=1)]
    zoo = Zoo(tmp_path / "zoo")
    for module in everything:
        zoo.add(module)
    for source in (everything, zoo):
        with pytest.raises(SourceError) as caught:
            find_sources(source, backbone)
        assert "no 'lora' module for backbone 'tiny-bert'" in str(caught.value)
        assert "2 adapter modules of this backbone, 1 lora modules of backbone 'tiny-bert'" in str(caught.value)
        assert "transfer zoo build --backbone tiny-bert --kind encoder --methods lora" in str(caught.value)
    with pytest.raises(SourceError, match="an empty zoo"):
        find_sources([], backbone)
    with pytest.raises(SourceError, match=r"left out by exclude\n(.*\n)*.*include-own"):
        find_sources(everything, backbone, "adapter", exclude=["source-0", "source-1"])
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        find_sources(everything, backbone, "lorra")


def test_scores_top_frame_and_dictionary():
    scores = Scores(["b", "a", "c"], np.array([1.0, 1.0, 3.0]), "given")
    assert scores.top(2) == [("c", 3.0), ("a", 1.0)]
    assert scores.top(9) == [("c", 3.0), ("a", 1.0), ("b", 1.0)]
    assert scores.as_dict() == {"b": 1.0, "a": 1.0, "c": 3.0}
    frame = scores.frame()
    assert frame["id"].tolist() == ["c", "a", "b"]
    assert frame["rank"].tolist() == [1, 2, 3]
    assert frame["score"].tolist() == [3.0, 1.0, 1.0]


def test_scores_cannot_be_changed_and_copy_what_they_get():
    values = np.array([1.0, 2.0])
    scores = Scores(["a", "b"], values, "given")
    values[0] = 9
    assert scores.values.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0] = 3


def test_scores_that_do_not_fit_their_ids_are_refused():
    with pytest.raises(ConfigError, match="2 ids and values"):
        Scores(["a", "b"], np.zeros(3), "given")
    with pytest.raises(ConfigError, match="1 ids and values"):
        Scores.from_pairs(["a"], [0.0, 1.0])
    with pytest.raises(ConfigError, match="2 ids and scores per block"):
        Scores(["a", "b"], np.zeros(2), "given", blocks=np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="'a' has several scores"):
        Scores.from_pairs(["a", "b", "a"], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("method", [LoRA(), Adapter(), Prefix(), Prefix(reparameterisation=4)])
def test_switching_gives_each_module_the_outputs_it_has_when_attached_alone(method, toys):
    backbone = tiny.tiny_backbone("bert")
    modules = toys.modules(backbone, method)
    encoded = backbone.encode(toys.task().train)
    found = over_modules(backbone, modules, lambda attached, module: backbone.choice_logits(encoded))
    for module, logits in zip(modules, found, strict=True):
        with backbone.use(METHODS.get(module.card.method)(), module.tensors(dtype=torch.float32)):
            assert torch.equal(backbone.choice_logits(encoded), logits)


def test_modules_of_equal_settings_are_attached_once(toys, monkeypatch):
    backbone = tiny.tiny_backbone("bert")
    modules = [*toys.modules(backbone, LoRA(), n=2), *toys.modules(backbone, LoRA(rank=2), n=2)]
    attached, attach = [], LoRA.attach
    monkeypatch.setattr(LoRA, "attach", lambda *a, **k: attached.append(1) or attach(*a, **k))
    order = over_modules(backbone, [modules[0], modules[2], modules[1], modules[3]], lambda _, module: module.id)
    assert order == [modules[0].id, modules[2].id, modules[1].id, modules[3].id]
    assert len(attached) == 2


def test_an_error_on_the_way_leaves_the_backbone_bare(world):
    backbone, _, modules = world()

    def fail(attached, module):
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        over_modules(backbone, modules, fail)
    assert backbone.delta is None


def test_a_module_whose_score_is_not_finite_is_named(world, toys):
    backbone, method, modules = world()
    wild = toys.module(backbone, method, {n: t * 1e25 for n, t in modules[0].tensors().items()}, "wild")
    with pytest.raises(SourceError, match=f"score of module '{wild.id}' by prediction:loss is not finite"):
        score(toys.task(), [*modules, wild], backbone, estimator="prediction:loss")
