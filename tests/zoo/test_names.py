"""No name leads out of the zoo's folder."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoo import PathError
from zoo.names import check_file, check_id, check_start, make_id, short_start

HOSTILE = [
    "../x-lora-01234567",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b-lora-01234567",
    "a\\b-lora-01234567",
    "C:x-lora-01234567",
    "x-lora-01234567\n",
    "x-lora-01234567\0",
    ".hidden-lora-01234567",
    "x-lora-0123456G",
    "~-lora-01234567",
]


@pytest.mark.parametrize("check", [check_id, check_start, check_file])
@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "x-lora-0123456G"])
def test_hostile_names_are_refused(check, name):
    with pytest.raises(PathError):
        check(name)


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab0./\\-_:~ \n\0é"), max_size=20).map(lambda front: f"{front}-lora-01234567"))
@example("..-lora-01234567")
def test_what_passes_is_one_part_of_a_path(name):
    try:
        check_id(name)
    except PathError:
        return
    assert PurePosixPath(name).parts == (name,)
    assert PureWindowsPath(name).parts == (name,)
    assert name not in (".", "..")


@pytest.mark.parametrize("method", ["lora", "parallel-adapter"])
def test_tasks_and_methods_may_have_dashes(method):
    made = make_id("tweet-emotion.v2", method, "0a1b2c3d4e")
    assert made == f"tweet-emotion.v2-{method}-0a1b2c3d"
    assert check_id(made) == made


@pytest.mark.parametrize("method", ["lora", "parallel-adapter"])
def test_a_start_beside_another_has_the_same_short_name(method):
    short = f"{method}-01234567-89abcdef"
    assert short_start(short) == short
    assert short_start(f"{short}-00001111") == short


@pytest.mark.parametrize("name", ["x--01234567", "x-lora--01234567", "x-lora-", "x--lora-0123456"])
def test_dashes_stand_between_words(name):
    with pytest.raises(PathError):
        check_id(name)


@pytest.mark.parametrize("value", [None, 3, b"x-lora-01234567"])
def test_what_is_no_string_is_refused(value):
    with pytest.raises(PathError):
        check_id(value)
