"""Names and shapes of tensors are held against the settings."""

from __future__ import annotations

import pytest
from zoo_toys import settings_of, shapes_of

from zoo import CardError, TensorError
from zoo.shapes import check_shapes, expected_shapes


@pytest.mark.parametrize(
    "method",
    ["lora", "adapter", "low-rank-adapter", "compacter", "prefix", "bitfit", "soft-prompt", "sora", "other"],
)
def test_right_shapes_pass(method):
    settings = settings_of(method)
    check_shapes(method, settings, shapes_of(method, settings))


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "bitfit", "soft-prompt", "sora"])
def test_each_wrong_dimension_is_refused(method):
    settings = settings_of(method)
    shapes = shapes_of(method, settings)
    for name in [name for name in shapes if name.startswith(settings["places"][0])]:
        for dimension in range(len(shapes[name])):
            wrong = list(shapes[name])
            wrong[dimension] += 1
            if method in ("lora", "bitfit", "soft-prompt", "sora") and wrong[dimension] == 17:
                continue  # the width of the backbone is not among the settings
            with pytest.raises(TensorError, match="shape"):
                check_shapes(method, settings, {**shapes, name: tuple(wrong)})
        with pytest.raises(TensorError, match="shape"):
            check_shapes(method, settings, {**shapes, name: (*shapes[name], 1)})


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix", "bitfit"])
def test_a_missing_or_unexpected_tensor_is_named(method):
    settings = settings_of(method)
    shapes = shapes_of(method, settings)
    first, *rest = shapes
    with pytest.raises(TensorError, match=f"missing {first}"):
        check_shapes(method, settings, {name: shapes[name] for name in rest})
    with pytest.raises(TensorError, match="unexpected other"):
        check_shapes(method, settings, {**shapes, "other": (2, 2)})


def test_a_rank_by_place_is_respected():
    settings = {**settings_of("lora"), "ranks": {settings_of("lora")["places"][0]: 5}}
    expected = expected_shapes("lora", settings)
    assert expected is not None
    assert [expected[f"{place}.lora_A"][0] for place in settings["places"]] == [5, 2, 2, 2]


@pytest.mark.parametrize(
    "changed",
    [{"rank": rank} for rank in (None, 0, True, "2", "in", 2.0)] + [{"places": p} for p in ([], ["q", "q"], "q", [1])],
)
def test_settings_that_cannot_be_are_refused(changed):
    settings = settings_of("lora")
    with pytest.raises(CardError):
        check_shapes("lora", {**settings, **changed}, shapes_of("lora", settings))


def test_a_missing_setting_is_named():
    with pytest.raises(CardError, match="bottleneck"):
        check_shapes("adapter", {"places": ["q"]}, {"q.adapter_down.weight": (2, 4)})


def test_tensors_of_an_unknown_method_must_be_at_its_places():
    with pytest.raises(TensorError, match=r"elsewhere\.weight"):
        check_shapes("bitfit", settings_of("bitfit"), {"elsewhere.weight": (3,)})
    with pytest.raises(TensorError, match="no tensors"):
        check_shapes("bitfit", {}, {})


def test_a_shared_rule_is_a_tensor_of_the_first_place():
    settings = settings_of("compacter") | {"shared_rule": True}
    shapes = dict(shapes_of("compacter", settings))
    second = f"{settings['places'][1]}.compacter_rule"
    with pytest.raises(TensorError, match=f"unexpected {second}"):
        check_shapes("compacter", settings, shapes)
    del shapes[second]
    check_shapes("compacter", settings, shapes)


@pytest.mark.parametrize(("heads", "head_width"), [("x", 600_000_000), (10**15, "x"), (True, 4), (0, 4)])
def test_heads_that_are_no_counts_are_refused_without_much_ado(heads, head_width):
    settings = {"length": 2, "heads": heads, "head_width": head_width, "places": ["a"]}
    with pytest.raises(CardError) as caught:
        expected_shapes("prefix", settings)
    assert len(str(caught.value)) < 300
