"""Errors say what was asked, what is there, what to do; and pass from process to process."""

from __future__ import annotations

import copy
import pickle

import pytest

import transfer.errors
import zoo.errors
from transfer.errors import ConfigError, DataError, DeltaError, TransferError, UnknownNameError
from zoo.errors import ExplainedError, UnknownModuleError, ZooError

KINDS = sorted(
    {
        kind
        for module in (transfer.errors, zoo.errors)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ExplainedError)
    },
    key=lambda kind: kind.__name__,
)


def test_the_three_parts_stand_on_lines_of_their_own():
    error = ExplainedError("no module 'x' in ./zoo", found="2 modules", hint="transfer zoo ls")
    assert str(error) == "no module 'x' in ./zoo\nfound: 2 modules\ntry:   transfer zoo ls"


@pytest.mark.parametrize(
    ("parts", "text"),
    [({}, "asked"), ({"found": "f"}, "asked\nfound: f"), ({"hint": "h"}, "asked\ntry:   h"), ({"found": ""}, "asked")],
)
def test_parts_that_are_not_there_leave_no_line(parts, text):
    assert str(ExplainedError("asked", **parts)) == text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
def test_every_kind_can_be_handed_on(kind, copied):
    twin = copied(kind("asked", found="found", hint="hint"))
    assert type(twin) is kind
    assert (twin.asked, twin.found, twin.hint) == ("asked", "found", "hint")
    assert str(twin) == "asked\nfound: found\ntry:   hint"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_of_one_family(kind):
    assert issubclass(kind, TransferError) or issubclass(kind, ZooError) or kind is ExplainedError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigError, ValueError),
        (DataError, ValueError),
        (DeltaError, ValueError),
        (UnknownNameError, LookupError),
        (UnknownModuleError, LookupError),
    ],
)
def test_kinds_are_caught_as_what_python_calls_them(kind, builtin):
    with pytest.raises(builtin):
        raise kind("asked")


def test_a_lookup_error_keeps_its_lines():
    assert str(UnknownNameError("a", hint="b")) == "a\ntry:   b"  # KeyError would put it in quotes
