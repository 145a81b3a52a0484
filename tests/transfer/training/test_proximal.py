"""Training a SoRA: the proximal step, the gates' own rate, the penalty, and going on after a kill."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch

from transfer.deltas import SoRA
from transfer.deltas.sora import GATE
from transfer.training import TuneSettings, tune
from transfer.training.run_folder import last_checkpoint

SETTINGS = TuneSettings(steps=6, batch_size=4, learning_rate=1e-2, seed=1)
SMALL = {"rank": 2, "where": ("attn.q", "ff.w2")}


@pytest.fixture(scope="module")
def bert():
    return tiny.tiny_backbone("bert")


def run(backbone, method, settings=SETTINGS, **options):
    train = backbone.encode(tiny.sentiment_rows(20))
    start = method.draw(backbone.model, 0)
    return tune(backbone, method, train, tensors=start, settings=settings, keep="last", **options)


def gates(tensors):
    return torch.cat([tensor for name, tensor in sorted(tensors.items()) if name.endswith(GATE)])


def by_hand(backbone, method, steps, shrink, gate_rate=None, penalty=0.0, decay=0.0):
    """The same tune without the Trainer: AdamW, linear decay, clipping at 1, then `shrink(gate, rate)`."""
    from transfer.training.sampling import LengthBatches

    rows = backbone.encode(tiny.sentiment_rows(20))
    batches = LengthBatches([row.length for row in rows], SETTINGS.batch_size, SETTINGS.seed)
    order = []
    for epoch in range(steps):
        batches.set_epoch(epoch)
        order += list(batches)
    with backbone.use(method, method.draw(backbone.model, 0)) as attached:
        own = [p for name, p in attached.named_parameters() if name.endswith(GATE)]
        rest = [p for name, p in attached.named_parameters() if not name.endswith(GATE)]
        rate = SETTINGS.learning_rate
        groups = [{"params": rest}, {"params": own, "lr": gate_rate or rate, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
        for step in range(steps):
            for group, top in zip(optimiser.param_groups, (rate, gate_rate or rate), strict=True):
                group["lr"] = top * (1 - step / steps)
            loss = backbone(**backbone.collate([rows[i] for i in order[step]], train=True))["loss"]
            if penalty:
                loss = loss + penalty * sum(p.abs().sum() for p in own) / sum(p.numel() for p in own)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*rest, *own], 1.0)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                for gate in own:
                    gate.copy_(shrink(gate, optimiser.param_groups[1]["lr"]))
        return {name: tensor.clone() for name, tensor in attached.state_dict().items()}


def soft(xi):
    return lambda gate, rate: gate.sign() * (gate.abs() - xi).clamp(min=0)


def published(xi):
    """Three assignments in order: what the first has moved the second looks at."""

    def shrink(gate, rate):
        gate = torch.where(gate > xi, gate - xi, gate)
        gate = torch.where(gate < -xi, gate + xi, gate)
        return torch.where((gate < xi) & (gate > -xi), 0.0, gate)

    return shrink


@pytest.mark.parametrize(
    ("changes", "shrink", "more"),
    [
        ({"xi": 0.05}, soft(0.05), {}),
        ({"xi": 5.0, "scale_by_rate": True}, lambda gate, rate: soft(5.0 * rate)(gate, rate), {}),
        ({"xi": 0.01, "gate_learning_rate": 0.1}, soft(0.01), {"gate_rate": 0.1}),
        ({"xi": 0.0, "penalty": 2.0}, lambda gate, rate: gate, {"penalty": 2.0}),
        ({"xi": 0.05, "threshold": "published-code"}, published(0.05), {}),
    ],
    ids=["soft", "scaled", "own rate", "penalty", "published"],
)
def test_the_trainer_does_what_the_formulas_say(bert, changes, shrink, more):
    method = SoRA(**SMALL, **changes)
    expected = by_hand(bert, method, SETTINGS.steps, shrink, **more)
    found = run(bert, method).tensors
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=2e-5), name
    assert torch.equal(gates(found) == 0, gates(expected) == 0)


def test_weight_decay_is_that_of_adamw(bert):
    method = SoRA(**SMALL, xi=0.05)
    expected = by_hand(bert, method, SETTINGS.steps, soft(0.05), decay=0.5)
    found = run(bert, method, dataclasses.replace(SETTINGS, weight_decay=0.5)).tensors
    plain = run(bert, method).tensors
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=3e-4), name
    assert any(not torch.allclose(found[name], plain[name], atol=2e-3) for name in plain)


def test_published_code_zeroes_more_than_the_paper(bert):
    many = SMALL | {"rank": 16}
    soft_zero, published_zero = (
        int((gates(run(bert, SoRA(**many, xi=0.1, threshold=name)).tensors) == 0).sum())
        for name in ("soft", "published-code")
    )
    assert 0 < soft_zero < published_zero
    assert (gates(run(bert, SoRA(**SMALL, xi=0.0)).tensors) != 0).all()


def test_a_run_that_stopped_half_way_ends_where_it_would_have(bert, tmp_path, monkeypatch):
    from transfer.training import trainer

    method = SoRA(**SMALL, xi=0.05, scale_by_rate=False, gate_learning_rate=3e-2, penalty=0.1, dropout=0.2)
    settings = TuneSettings(steps=9, batch_size=4, learning_rate=1e-2, seed=1, eval_every=4)
    whole = run(bert, method, settings, dev=bert.encode(tiny.sentiment_rows(10, seed=1)))

    def die(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Progress, "on_step_end", die)
        with pytest.raises(KeyboardInterrupt):
            run(bert, method, settings, dev=bert.encode(tiny.sentiment_rows(10, seed=1)), folder=tmp_path / "run")
    assert last_checkpoint(tmp_path / "run")[1].global_step == 4
    again = run(bert, method, settings, dev=bert.encode(tiny.sentiment_rows(10, seed=1)), folder=tmp_path / "run")
    assert again.history == whole.history
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in whole.tensors)
    assert (gates(whole.tensors) == 0).any()
