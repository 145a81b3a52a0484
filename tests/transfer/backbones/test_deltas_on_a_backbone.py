"""Attaching, `use` and `bare`: exactly as it was afterwards."""

from __future__ import annotations

import pytest
import tiny
import torch

from transfer.deltas import METHODS, Delta, LoRA
from transfer.errors import BackboneError, DeltaError

ROWS = tiny.sentiment_rows(3)


def moved(backbone, method, by=0.2):
    generator = torch.Generator().manual_seed(0)  # the same step everywhere would be taken out by a norm
    return {
        name: value + by * torch.randn(value.shape, generator=generator)
        for name, value in method.draw(backbone.model).items()
    }


@pytest.fixture
def bert():
    return tiny.tiny_backbone("bert")


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
@pytest.mark.parametrize("name", METHODS.names())
def test_use_acts_inside_and_leaves_no_trace(arch, name):
    backbone = tiny.tiny_backbone(arch)
    method = METHODS.get(name)()
    before = backbone.choice_logits(ROWS)
    with backbone.use(method, moved(backbone, method)) as attached:
        assert backbone.delta is attached
        assert not torch.equal(backbone.choice_logits(ROWS), before)
    assert backbone.delta is None
    assert torch.equal(backbone.choice_logits(ROWS), before)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_delta_is_attached_with_its_own_tensors(bert):
    method = LoRA(rank=2)
    delta = Delta(method, moved(bert, method))
    attached = bert.attach(delta)
    assert all(torch.equal(attached.state_dict()[name], delta.tensors[name]) for name in delta.tensors)
    others = {name: value + 1 for name, value in delta.tensors.items()}
    with bert.use(delta, others) as inside:
        assert all(torch.equal(inside.state_dict()[name], others[name]) for name in others)
    assert bert.delta is attached


def test_what_was_attached_by_the_method_itself_counts(bert):
    bare = bert.choice_logits(ROWS)
    attached = LoRA(rank=2).attach(bert, moved(bert, LoRA(rank=2)))
    assert bert.delta is attached
    with bert.bare():
        assert bert.delta is None
        assert torch.equal(bert.choice_logits(ROWS), bare)
    assert bert.delta is attached
    assert set(bert.state_dict()) == set(attached.state_dict())
    attached.detach()
    assert bert.delta is None


def test_several_deltas_come_back_in_order(bert):
    method = LoRA(rank=2)
    first = method.attach(bert, moved(bert, method))
    second = method.attach(bert, moved(bert, method, -0.3))
    before = bert.choice_logits(ROWS)
    with bert.bare():
        pass
    assert bert._deltas() == [first, second]
    assert torch.equal(bert.choice_logits(ROWS), before)


def test_what_was_attached_can_be_attached_again(bert):
    attached = bert.attach(LoRA(rank=2), moved(bert, LoRA(rank=2)))
    before = bert.choice_logits(ROWS)
    bert.detach()
    assert bert.attach(attached) is attached
    assert torch.equal(bert.choice_logits(ROWS), before)


@pytest.mark.parametrize("training", [True, False])
def test_bare_and_use_restore_delta_tensors_and_mode(bert, training):
    kept = bert.attach(LoRA(rank=2, dropout=0.5), moved(bert, LoRA(rank=2)))
    bert.train(training)
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    with bert.bare():
        assert bert.delta is None
        bert.train(not training)
        with bert.use(LoRA(rank=3)) as inside:
            assert bert.delta is inside
        assert bert.delta is None
    assert bert.delta is kept
    assert bert.training is kept.training is training
    assert all(torch.equal(kept.state_dict()[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in kept.parameters())


def test_an_exception_inside_restores_too(bert):
    kept = bert.attach(LoRA(rank=2))
    with pytest.raises(RuntimeError, match="inside"), bert.use(LoRA(rank=3)):
        raise RuntimeError("inside")
    assert bert.delta is kept
    with bert.bare():
        bert.attach(LoRA(rank=3))  # left on by mistake
    assert bert.delta is kept


def test_nested_uses_come_off_one_by_one(bert):
    methods = [LoRA(rank=2), METHODS.get("adapter")(), LoRA(rank=3)]
    deltas = [Delta(method, moved(bert, method)) for method in methods]
    alone = []
    for delta in deltas:
        with bert.use(delta):
            alone.append(bert.choice_logits(ROWS))

    def fail_inside():
        with bert.use(deltas[2]):
            assert torch.equal(bert.choice_logits(ROWS), alone[2])
            raise RuntimeError("innermost")

    with bert.use(deltas[0]):
        with bert.use(deltas[1]):
            with pytest.raises(RuntimeError, match="innermost"):
                fail_inside()
            assert torch.equal(bert.choice_logits(ROWS), alone[1])
        assert torch.equal(bert.choice_logits(ROWS), alone[0])
    assert bert.delta is None


def test_attach_replaces_and_a_delta_that_does_not_fit_changes_nothing(bert):
    first = bert.attach(LoRA(rank=2))
    second = bert.attach(LoRA(rank=3))
    assert bert.delta is second
    assert not first.attached
    before = bert.choice_logits(ROWS)
    with pytest.raises(DeltaError):
        bert.attach(LoRA(rank=2), second.state_dict())
    with pytest.raises(DeltaError, match="a str holds no delta"):
        bert.attach("lora")
    assert bert.delta is second
    assert torch.equal(bert.choice_logits(ROWS), before)


def test_scoring_keeps_the_mode_and_has_no_dropout(bert):
    kept = bert.attach(LoRA(rank=2, dropout=0.5), moved(bert, LoRA(rank=2)))
    plain = bert.choice_logits(ROWS)
    assert not kept.training
    bert.train()
    assert torch.equal(bert.choice_logits(ROWS), plain)
    assert torch.equal(bert.embed(["a"]), bert.eval().embed(["a"]))
    bert.train()
    bert.loss(ROWS)
    assert bert.training
    assert kept.training


def test_only_the_delta_trains_the_model_stays_in_evaluation_mode():
    backbone = tiny.tiny_backbone("bert")
    kept = backbone.attach(LoRA(rank=2, dropout=0.5))
    backbone.train()
    own = set(kept.modules())
    assert not any(module.training for module in backbone.model.modules() if module not in own)
    assert all(module.training for module in own)


def test_state_dict_holds_the_delta_alone(bert):
    assert bert.state_dict() == {}
    with pytest.raises(BackboneError, match="no delta"):
        bert.load_state_dict({})
    kept = bert.attach(LoRA(rank=2))
    tensors = {name: torch.ones_like(value) for name, value in bert.state_dict().items()}
    assert bert.load_state_dict(tensors) == ([], [])
    assert all((value == 1).all() for value in kept.state_dict().values())
    with pytest.raises(DeltaError):
        bert.load_state_dict(dict(list(tensors.items())[:-1]), strict=False)


def test_a_merged_backbone_is_another_one(bert):
    before = bert.fingerprint
    with pytest.raises(BackboneError, match="no delta is attached that could be merged"):
        bert.merge()
    bert.attach(LoRA(), moved(bert, LoRA()))
    scored = bert.choice_logits(ROWS)
    bert.merge()
    assert bert.delta is None
    assert bert.fingerprint not in (before, "")
    assert torch.allclose(bert.choice_logits(ROWS), scored, atol=1e-3)
    assert not any(parameter.requires_grad for parameter in bert.parameters())


def test_what_cannot_be_merged_leaves_the_backbone_as_it_is(bert):
    before, weights = bert.fingerprint, {n: p.clone() for n, p in bert.model.named_parameters()}
    LoRA().attach(bert.model, moved(bert, LoRA()))
    METHODS.get("adapter")().attach(bert.model)
    with pytest.raises(DeltaError, match="method 'adapter' cannot be merged"):
        bert.merge()
    bert.detach()
    assert bert.fingerprint == before
    assert all(torch.equal(parameter, weights[name]) for name, parameter in bert.model.named_parameters())


def test_tensors_that_do_not_fit_a_delta_of_before_change_nothing(bert):
    first = bert.attach(LoRA())
    bert.attach(METHODS.get("adapter")())
    expected = bert.choice_logits(ROWS)
    with pytest.raises(DeltaError, match="do not fit"):
        bert.attach(first, {"no": torch.zeros(1)})
    assert [attached.method.method for attached in bert._deltas()] == ["adapter"]
    assert torch.equal(bert.choice_logits(ROWS), expected)
