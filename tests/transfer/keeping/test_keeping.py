"""Ways of keeping the head start: what each hands over, chosen on dev or by folds, gone on with after a kill."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import small
import torch

from transfer import finetune, initialize
from transfer.deltas.delta import Delta
from transfer.errors import ConfigError, DataError, DivergedError, UnknownNameError
from transfer.keeping import KEEPS, KeepSettings, Work
from transfer.keeping.averages import between, mean_of
from transfer.keeping.choosing import check_keep, keep_start, split
from transfer.keeping.work import OtherStart
from transfer.training import TuneSettings, measure, tune
from transfer.training.run_folder import Snapshots
from zoo import Module

QUICK = {"steps": 4, "batch_size": 8, "eval_every": 2}
WAYS = [name for name in KEEPS.names() if name not in ("best", "last")]


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name].float(), right[name].float()) for name in left)


def flat(tensors):
    return torch.cat([tensors[name].float().flatten() for name in sorted(tensors)])


def distance(left, right):
    return float((flat(left) - flat(right)).norm())


@pytest.fixture(scope="module")
def work(small_zoo):
    """A work from scratch, with train and dev."""
    backbone, zoo = small_zoo()
    task = small.toy_target()
    module = next(iter(zoo))
    start = {name: tensor.float() for name, tensor in module.start().items()}
    settings = TuneSettings(steps=6, batch_size=8, eval_every=2, learning_rate=0.02)
    method = Delta.from_module(module).method
    modules = sorted(zoo, key=lambda one: one.id)
    made = Work(backbone=backbone, method=method, start=start, settings=settings, sources=modules, origin=start)
    return made, backbone.encode(task.train, task.fields), backbone.encode(task.dev, task.fields)


def path_of(work, train, dev):
    """The deltas and the dev losses along the plain tune of a work, step by step."""
    snapshots = Snapshots()
    tuned = tune(work.backbone, work.method, train, tensors=work.start, settings=work.settings, dev=dev, keep="last",
                 snapshots=snapshots)  # fmt: skip
    return {0: dict(work.start), **snapshots.read()}, tuned


def calibrated(task, backbone, delta):
    """The loss on dev that everything is chosen by."""
    with backbone.use(delta):
        return measure(backbone, backbone.encode(task.dev, task.fields)).calibrated_loss


# ---- every way


@pytest.mark.parametrize(("arch", "name"), [("gpt2", "lora"), ("t5", "prefix"), ("bert", "parallel-adapter")])
def test_scratch_mixes_and_averages_where_settings_are_read_from_the_model(arch, name, small_zoo):
    backbone, zoo = small_zoo(arch, name)
    task = small.toy_target()
    mixed = finetune(task, backbone, method=name, keep="mixing", zoo=zoo, steps=2, batch_size=8, eval_every=1)
    assert mixed.kept["chosen"].startswith("step")
    made = initialize(task, zoo, backbone, name, guard=False)
    soup = finetune(task, backbone, method=name, keep="soup", others=[made], zoo=zoo, steps=2, batch_size=8)
    assert len(soup.kept["ingredients"]) == 2


@pytest.mark.parametrize("keep", WAYS)
def test_what_is_handed_over_has_the_loss_that_is_recorded(keep, small_zoo):
    backbone, zoo = small_zoo()
    task = small.toy_target()
    for start in (None, initialize(task, zoo, backbone, guard=False)):  # scratch is the control of every way
        found = finetune(task, backbone, start, keep=keep, zoo=zoo, **QUICK)
        about = found.module.card.provenance["keep"]
        assert about == found.kept
        assert about["name"] == keep
        losses = about["candidates"]
        assert losses[about["chosen"]] == min(losses.values())
        assert calibrated(task, backbone, found) == pytest.approx(losses[about["chosen"]], abs=1e-5)
        assert found.module.card.metrics["dev"]["calibrated"] == losses[about["chosen"]]
        assert 0 < found.module.card.metrics["dev"]["factor"] <= 1
        if "step 0" in losses and start is not None:
            assert losses["step 0"] == pytest.approx(calibrated(task, backbone, start), abs=1e-5)
        assert found.module.card.steps == about["steps"] >= 4
    assert backbone.delta is None


def test_every_way_is_the_same_for_the_same_seed(work):
    made, train, dev = work
    for keep in ("interpolate", "greedy-soup", "mixing-rest"):
        one, two = (keep_start(made, keep, train, dev) for _ in range(2))
        assert equal(one.tensors, two.tensors)
        assert one.about["candidates"] == two.about["candidates"]


def test_best_and_last_are_recorded_as_well(small_zoo):
    backbone, zoo = small_zoo()
    for keep in ("best", "last"):
        card = finetune(small.toy_target(), backbone, zoo=zoo, keep=keep, **QUICK).module.card
        assert card.provenance["keep"]["name"] == keep
        assert card.provenance["keep"]["chosen"].startswith("step ")


# ---- one by one, by hand


def test_best_by_snapshots_is_the_best_of_tune(work):
    made, train, dev = work
    expected = tune(made.backbone, made.method, train, tensors=made.start, settings=made.settings, dev=dev)
    found = keep_start(made, "best", train, dev)
    assert found.chosen == f"step {expected.best_step}"
    assert equal(found.tensors, expected.tensors)


def test_interpolation_by_hand(work):
    made, train, dev = work
    along, _ = path_of(made, train, dev)
    found = keep_start(dataclasses.replace(made, keep=KeepSettings(shares=(0.3,))), "interpolate", train, dev)
    assert list(found.about["candidates"]) == ["step 0", "step 2", "step 4", "step 6", "share 0.3"]
    by_hand = {name: 0.7 * along[0][name] + 0.3 * along[6][name] for name in along[0]}
    with made.backbone.use(made.method, by_hand):
        assert found.about["candidates"]["share 0.3"] == pytest.approx(
            measure(made.backbone, dev).calibrated_loss, abs=1e-5
        )
    assert equal(between(along[0], along[6], 0), along[0])
    assert equal(between(along[0], along[6], 1), along[6])


def test_averages_of_the_trajectory_by_hand(work):
    made, train, dev = work
    along, _ = path_of(made, train, dev)
    found = keep_start(made, "average", train, dev)
    assert equal(mean_of([along[4], along[6]]), {name: (along[4][name] + along[6][name]) / 2 for name in along[4]})
    by_hand = {name: (along[2][name] + along[4][name] + along[6][name]) / 3 for name in along[0]}
    with made.backbone.use(made.method, by_hand):
        loss = measure(made.backbone, dev).calibrated_loss
    assert found.about["candidates"]["average from step 2"] == pytest.approx(loss, abs=1e-5)


def test_the_pull_is_half_its_strength_times_the_squared_distance(work):
    from transfer.training.trainer import Pull

    made, _, _ = work
    other = {name: tensor + 0.5 for name, tensor in made.start.items()}
    with made.backbone.use(made.method, other) as attached:
        penalty = Pull(attached, made.start, 0.2)()
        (gradient,) = torch.autograd.grad(penalty, [next(iter(dict(attached.named_tensors()).values()))])
    n = sum(tensor.numel() for tensor in made.start.values())
    assert float(penalty.detach()) == pytest.approx(0.1 * n * 0.25, rel=1e-5)
    assert gradient.unique().tolist() == pytest.approx([0.1], rel=1e-4)


def test_a_stronger_pull_stays_nearer_to_the_start(work):
    made, train, _ = work

    def end(pull):
        return tune(
            made.backbone, made.method, train, tensors=made.start, settings=made.settings, keep="last", pull=pull
        ).tensors

    far, near = distance(end(0.0), made.start), distance(end(10.0), made.start)
    assert near < 0.9 * far
    with pytest.raises(ConfigError, match="pull"):
        end(-1.0)


def with_tuned_starts(made, train, dev):
    """A work with two starts more, and what is tuned from each of the three."""
    others = [OtherStart(module.id, module.tensors(torch.float32)) for module in made.sources[:2]]
    tuned = [
        tune(made.backbone, made.method, train, tensors=start, settings=made.settings, dev=dev).tensors
        for start in (made.start, *(other.tensors for other in others))
    ]
    return dataclasses.replace(made, others=others), tuned


def test_a_soup_is_the_mean_of_tuned_starts(work):
    made, train, dev = work
    several, tuned = with_tuned_starts(made, train, dev)
    found = keep_start(several, "soup", train, dev)
    torch.testing.assert_close(flat(found.tensors), flat(mean_of(tuned)))
    assert [row["name"] for row in found.about["ingredients"]] == ["start", *(other.name for other in several.others)]


def test_a_greedy_soup_takes_in_what_makes_its_loss_no_higher(work, monkeypatch):
    made, train, dev = work
    several, tuned = with_tuned_starts(made, train, dev)
    alone = [made.loss(tensors, dev) for tensors in tuned]
    first, _, third = sorted(range(3), key=lambda place: alone[place])
    good = flat(mean_of([tuned[first], tuned[third]]))

    def loss(self, tensors, dev):
        """Of soups: that of the best and the worst is better than the best, any other is worse."""
        return alone[first] + (-0.1 if torch.allclose(flat(tensors), good, atol=1e-6) else 0.1)

    monkeypatch.setattr(Work, "loss", loss)
    greedy = keep_start(several, "greedy-soup", train, dev)
    names = ["start", *(other.name for other in several.others)]
    assert greedy.about["taken"] == [names[first], names[third]]
    torch.testing.assert_close(flat(greedy.tensors), good)


def test_mixing_moves_within_the_span_of_the_modules_and_the_rest_out_of_it_by_a_low_rank(work):
    made, train, _ = work
    settings = dataclasses.replace(made.settings, steps=6, eval_every=3, patience=None)
    made = dataclasses.replace(made, settings=settings, start={n: t + 0.01 for n, t in made.start.items()})
    changes = torch.stack([flat(module.tensors(torch.float32)) - flat(made.origin) for module in made.sources])

    def left_over(tensors):
        moved = flat(tensors) - flat(made.start)
        solution = torch.linalg.lstsq(changes.T.double(), moved.double()[:, None]).solution
        return moved.double() - (changes.T.double() @ solution)[:, 0], float(moved.norm())

    plain = KEEPS.get("mixing")().trial(made, train, None, "tune").tensors
    rest, moved = left_over(plain["step 6"])
    assert moved > 1e-3
    assert float(rest.norm()) < 1e-4 * moved + 1e-5
    both = KEEPS.get("mixing-rest")().trial(made, train, None, "tune").tensors
    assert equal(both["step 3"], plain["step 3"])  # coefficients alone in the first half
    assert float(left_over(both["step 6"])[0].norm()) > 1e-3
    narrow = dataclasses.replace(made, keep=KeepSettings(rest_rank=1, mixing_rate=1e-30))
    alone = KEEPS.get("mixing-rest")().trial(narrow, train, None, "tune").tensors["step 6"]
    ranks = [int(torch.linalg.matrix_rank(alone[name] - made.start[name], atol=1e-5)) for name in made.start]
    assert max(ranks) == 1


def test_auto_has_the_candidates_of_its_ways_and_takes_the_best_of_all(work):
    made, train, dev = work
    alone = {name: keep_start(made, name, train, dev) for name in ("interpolate", "average", "l2-sp", "mixing")}
    expected: dict[str, float] = {}
    for name, found in alone.items():
        prefix = "mixing, " if name == "mixing" else ""
        expected |= {prefix + label: loss for label, loss in found.about["candidates"].items()}
    found = keep_start(made, "auto", train, dev)
    assert found.about["candidates"] == pytest.approx(expected, abs=1e-6)
    assert found.about["candidates"][found.chosen] == min(found.about["candidates"].values())
    # One tune for the first three, three with a pull, one of mixing.
    assert found.steps == alone["average"].steps + alone["l2-sp"].steps + alone["mixing"].steps
    winner = min(alone.values(), key=lambda one: one.about["candidates"][one.chosen])
    assert equal(found.tensors, winner.tensors)


def test_auto_does_without_modules_where_there_are_none(work, small_zoo):
    made, train, dev = work
    found = keep_start(dataclasses.replace(made, sources=()), "auto", train, dev)
    assert not any(label.startswith("mixing") for label in found.about["candidates"])
    backbone, _ = small_zoo()
    tuned = finetune(small.toy_target(), backbone, keep="auto", sources=(), **QUICK)
    assert tuned.kept["candidates"]["step 0"] is not None
    assert "sources" not in tuned.kept


@pytest.mark.parametrize(
    ("chosen", "ways"),
    [("mixing, step 2", ("mixing",)), ("pull 0.01, step 2", ("l2-sp",)), ("share 0.5", ("interpolate", "average"))],
)
def test_after_folds_auto_goes_the_chosen_way_alone(chosen, ways, work):
    made, train, _ = work
    way = KEEPS.get("auto")()
    settings = way.narrowed(made.keep, chosen)
    assert settings.ways == ways
    again = way.trial(dataclasses.replace(made, keep=settings), train, None, "all").tensors
    assert chosen in again
    assert not any(label.startswith("pull 0.1,") for label in again)


# ---- cross-validation


def test_folds_hold_out_every_row_once_and_spread_the_labels(work):
    _, train, dev = work
    rows = [*train, *dev]
    parts = split(rows, 4, 0)
    assert sorted(i for _, outside in parts for i in outside) == list(range(len(rows)))
    assert all(set(inside).isdisjoint(outside) and len(inside) + len(outside) == len(rows) for inside, outside in parts)
    shares = [np.mean([rows[i].label for i in outside]) for _, outside in parts]
    assert all(abs(share - 0.5) <= 0.1 for share in shares)


def test_folds_choose_by_the_mean_loss_and_train_on_everything(work):
    made, train, dev = work
    found = keep_start(made, "best", train, dev, folds=2)
    rows, settings = [*train, *dev], dataclasses.replace(made.settings, patience=None)
    whole = dataclasses.replace(made, settings=settings)
    histories = []
    for inside, outside in split(rows, 2, 0):
        _, tuned = path_of(whole, [rows[i] for i in inside], [rows[i] for i in outside])
        histories.append([row["calibrated"] for row in tuned.history])
    means = np.mean(histories, axis=0)
    assert list(found.about["candidates"].values()) == pytest.approx(means.tolist(), abs=1e-6)
    step = 2 * int(np.argmin(means))
    assert found.chosen == f"step {step}"
    assert equal(found.tensors, path_of(whole, rows, None)[0][step])
    assert found.steps == 18


def test_auto_is_chosen_by_folds_too(work):
    made, train, dev = work
    found = keep_start(made, "auto", train, dev, folds=2)
    assert found.about["candidates"][found.chosen] == min(found.about["candidates"].values())
    with pytest.raises(ConfigError, match="auto does not try soup"):
        KeepSettings(ways=("average", "soup"))


def test_folds_need_no_dev_split(small_zoo):
    backbone, zoo = small_zoo()
    found = finetune(small.toy_target(n=8, dev=0), backbone, zoo=zoo, keep="l2-sp", folds=2, **QUICK)
    assert found.kept["folds"] == 2
    assert "dev" not in found.module.card.metrics
    # Two folds with three strengths, then one tune with the strength that was chosen.
    assert found.kept["steps"] == 4 * (2 * 3 + 1)


# ---- after a kill


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(("keep", "folds", "at"), [("average", None, 2), ("soup", None, 5), ("best", 2, 5)])
def test_what_was_killed_ends_where_it_would_have(keep, folds, at, work, tmp_path, monkeypatch):
    made, train, dev = work
    whole = keep_start(made, keep, train, dev, folds)
    kept = dataclasses.replace(made, folder=tmp_path / "run")
    offer, count = Snapshots.offer, [0]

    def dying(self, step, tensors):
        count[0] += step > 0
        if count[0] > at:
            raise KilledError
        offer(self, step, tensors)

    monkeypatch.setattr(Snapshots, "offer", dying)
    with pytest.raises(KilledError):
        keep_start(kept, keep, train, dev, folds)
    monkeypatch.setattr(Snapshots, "offer", offer)
    assert list((tmp_path / "run").rglob("checkpoint-*"))
    resumed = keep_start(kept, keep, train, dev, folds)
    assert equal(resumed.tensors, whole.tensors)
    assert resumed.about["candidates"] == whole.about["candidates"]
    with pytest.raises(ConfigError, match="holds another run"):
        keep_start(kept, "interpolate", train, dev)


@pytest.mark.parametrize(("keep", "folds"), [("soup", None), ("best", 2), ("auto", None)])
def test_after_a_diverged_run_the_folder_takes_the_next_try(keep, folds, work, tmp_path):
    made, train, dev = work
    fast = dataclasses.replace(made.settings, learning_rate=1e38)
    (tmp_path / "notes.txt").write_text("of the caller")
    (tmp_path / "other").mkdir()
    with pytest.raises(DivergedError):
        keep_start(dataclasses.replace(made, settings=fast, folder=tmp_path), keep, train, dev, folds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "other"]
    again = keep_start(dataclasses.replace(made, folder=tmp_path), keep, train, dev, folds)
    assert equal(again.tensors, keep_start(made, keep, train, dev, folds).tensors)


# ---- what is refused


@pytest.mark.parametrize("keep", ["mixing", "mixing-rest", "best"])
def test_rows_without_a_label_are_refused_before_any_work(keep, work, tmp_path):
    made, train, dev = work
    made = dataclasses.replace(made, folder=tmp_path / "run")
    unknown = dataclasses.replace(train[0], label=-1)
    for rows, what in [(([*train, unknown], dev), "training"), ((train, [*dev, unknown]), "dev")]:
        with pytest.raises(DataError, match=f"a {what} example has no label"):
            keep_start(made, keep, *rows)
    assert not (tmp_path / "run").exists()


def test_what_does_not_go_together_is_refused_before_any_work():
    for arguments, what in [
        (("interpolate", 8, 0, None), "no dev examples"),
        (("soup", 8, 8, 3), "nothing that folds could choose"),
        (("last", 8, 8, 3), "nothing that folds could choose"),
        (("best", 8, 8, 1), "folds must lie between"),
        (("best", 2, 1, 4), "folds must lie between"),
        (("average", 8, 8, None, 1), "takes one start"),
    ]:
        with pytest.raises(ConfigError, match=what):
            check_keep(*arguments)
    with pytest.raises(UnknownNameError, match="did you mean 'l2-sp'"):
        check_keep("l2sp", 8, 8, None)
    for wrong in ({"pulls": (0.0,)}, {"shares": (1.0,)}, {"soup_size": 1}, {"rest_rank": 0}, {"mixing_rate": 0}):
        with pytest.raises(ConfigError):
            KeepSettings(**wrong)


def test_starts_that_share_nothing_are_no_soup(small_zoo):
    backbone, zoo = small_zoo()
    _, adapters = small_zoo("bert", "adapter")
    task, module = small.toy_target(), next(iter(zoo))
    method = Delta.from_module(module).method
    drawn = Module.new(dataclasses.replace(module.card, start=None), method.draw(backbone.model, 9), None,
                       method.draw(backbone.model, 9))  # fmt: skip
    nowhere = Module.new(dataclasses.replace(module.card, start=None), dict(module.tensors()))
    fewer = dataclasses.replace(method, at=method.at[:1])
    elsewhere = Delta(fewer, fewer.draw(backbone.model), fewer.settings(backbone.model))
    for other, what in [
        (next(iter(adapters)), "method"),
        (drawn, "start draw"),
        (nowhere, "start draw"),
        (elsewhere, "places"),
    ]:
        with pytest.raises(ConfigError, match=f"cannot be averaged after tuning: they differ in {what}"):
            finetune(task, backbone, module, keep="soup", others=[other], zoo=zoo, **QUICK)
    found = finetune(task, backbone, module, keep="soup", others=list(zoo)[1:], zoo=zoo, **QUICK)
    assert len(found.kept["ingredients"]) == 3


def test_mixing_leaves_the_target_s_own_task_out_and_keeps_to_what_was_scored(small_zoo):
    backbone, zoo = small_zoo()
    named = small.toy_target(name="films")
    run = {"keep": "mixing", "zoo": zoo, **QUICK}
    tasks = {module.id: module.card.task for module in zoo}
    found = finetune(named, backbone, **run)
    assert {tasks[name] for name in found.kept["sources"]} == {"hotels", "kettles"}
    found = finetune(named, backbone, exclude=["hotels"], **run)
    assert {tasks[name] for name in found.kept["sources"]} == {"kettles"}
    task = small.toy_target()
    begin = initialize(task, zoo, backbone, guard=False, exclude=["kettles"])
    assert {tasks[name] for name in finetune(task, backbone, begin, **run).kept["sources"]} == {"films", "hotels"}
