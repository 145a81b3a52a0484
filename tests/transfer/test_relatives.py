"""What counts as a relative: a source of the same category, else one with close inputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import small

from transfer.relatives import CLOSE, FEWEST_TASKS, find_relatives
from zoo import Card, Signature

WIDTH = 16
NUMBERS = itertools.count()


class StandIn:
    """What `find_relatives` reads of a module, a target or a backbone."""

    def __init__(self, **fields):
        self.__dict__.update(fields)


def source(task, centroid=None, category="nli"):
    card = Card(task=task, method="lora", category=category, settings={}, backbone="toy", fingerprint="0" * 64)
    signature = Signature(centroid=None if centroid is None else np.asarray(centroid, dtype=np.float32))
    return StandIn(id=f"{task}-lora-{next(NUMBERS):08x}", card=card, signature=signature)


def target(centroid, category="other"):
    task = small.toy_target(4, 4, category=category)
    return StandIn(task=task, backbone=StandIn(width=WIDTH), embeddings=np.asarray([centroid], dtype=np.float32))


def axis(number):
    return np.eye(WIDTH)[number]


@pytest.fixture
def sources():
    """Ten tasks, each about something else."""
    return [source(f"task-{number}", axis(number)) for number in range(10)]


def test_a_source_of_the_same_category_is_a_relative_without_a_look_at_the_inputs(sources):
    found = find_relatives(StandIn(**{**target(axis(15), "nli").__dict__, "embeddings": None}), sources)
    assert found.found
    assert len(found.same_category) == 10
    assert found.note is None


def test_other_is_no_category(sources):
    others = [source(f"other-{number}", axis(number), "other") for number in range(10)]
    assert not find_relatives(target(axis(15)), others).found


def test_close_inputs_make_a_relative(sources):
    found = find_relatives(target(axis(3)), sources)
    assert (found.found, found.closest) == (True, "task-3")
    # Centred by hand: e_3 - m against itself.
    assert found.cosine == pytest.approx(1)


def test_cosine_is_that_of_centroids_without_their_mean(sources):
    centroid = axis(3) + axis(15)
    mean = np.mean([axis(number) for number in range(10)], axis=0)
    ours, theirs = centroid - mean, axis(3) - mean
    expected = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert find_relatives(target(centroid), sources).cosine == pytest.approx(expected)


def test_what_all_inputs_have_in_common_makes_no_relative(sources):
    """Backbones whose embeddings all point one way, as those of language models do."""
    common = 50 * axis(14)
    shifted = [source(module.card.task, module.signature.centroid + common) for module in sources]
    found = find_relatives(target(axis(15) + common), shifted)
    assert not found.found
    assert found.cosine < CLOSE
    assert "'task-" in found.note
    assert f"below {CLOSE}" in found.note
    assert found.note.endswith("expect no head start")


def test_with_few_signatures_only_the_category_counts(sources):
    few = [*sources[: FEWEST_TASKS - 1], source("bare")]
    found = find_relatives(target(axis(0), "topic"), few)
    assert not found.found
    assert found.note == (
        "no relative of 'toy' among 8 source tasks: none is of category 'topic' and there are too few signatures to "
        "compare inputs; expect no head start"
    )


def test_where_nothing_can_be_compared_nothing_is_claimed(sources):
    found = find_relatives(target(axis(0)), sources[: FEWEST_TASKS - 1])
    assert (found.found, found.told) == (False, False)
    assert found.as_dict()["found"] is None
    assert found.note.startswith("it cannot be told whether there is a relative of 'toy' among 7 source tasks: its")
    assert "category is not known, and there are too few signatures" in found.note
    assert "head start" not in found.note
    told = find_relatives(target(axis(15)), sources)
    assert told.told
    assert told.as_dict()["found"] is False


def test_several_modules_of_a_task_count_once(sources):
    found = find_relatives(target(axis(15)), [*sources, *sources])
    assert found.n_tasks == 10


def test_any_module_of_a_task_can_tell_its_category_and_its_inputs_in_any_order(sources):
    others = [source(module.card.task, module.signature.centroid, "other") for module in sources]
    bare = source("task-3", category="sentiment")
    for modules in ([*others, bare], [bare, *others]):
        told = find_relatives(target(axis(15), "sentiment"), modules)
        assert (told.same_category, told.n_tasks) == (("task-3",), 10)
        close = find_relatives(target(axis(3)), modules)
        assert (close.closest, close.found) == ("task-3", True)


def test_a_centroid_of_another_width_does_not_hide_one_that_fits(sources):
    wide = source("task-3", np.ones(WIDTH + 1))
    for modules in ([*sources, wide], [wide, *sources]):
        assert find_relatives(target(axis(3)), modules).closest == "task-3"


@pytest.mark.parametrize("category", ["NLI", "Nli", " nli"])
def test_a_category_is_told_whatever_its_capitals(sources, category):
    assert len(find_relatives(target(axis(15), category), sources).same_category) == 10
    capital = [source(module.card.task, category=category) for module in sources]
    assert len(find_relatives(target(axis(15), "nli"), capital).same_category) == 10


def test_other_says_nothing_with_a_capital_either(sources):
    found = find_relatives(target(axis(15), "Other"), [*sources, source("more", category="other")])
    assert (found.same_category, found.found) == ((), False)
    assert "its category is not known" in found.note
