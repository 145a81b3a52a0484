"""What benchmarks share: options from a file, and the time that is left."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.options import parsed
from benchmarks.pace import Pace


def parser():
    made = argparse.ArgumentParser()
    made.add_argument("--targets", default="trec")
    made.add_argument("--steps", type=int, default=60)
    made.add_argument("--out", type=Path, default=Path("a"))
    made.add_argument("--smoke", action="store_true")
    return made


def test_a_file_gives_defaults_and_the_command_line_goes_first(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"targets": ["rte", "mrpc"], "steps": 5, "out": "b", "smoke": True}))
    found = parsed(parser(), ["--config", str(file), "--steps", "7"])
    assert (found.targets, found.steps, found.out, found.smoke) == ("rte,mrpc", 7, Path("b"), True)
    assert parsed(parser(), []).steps == 60


@pytest.mark.parametrize(("text", "said"), [('{"step": 5}', "no option named 'step'"), ("{", "--config")])
def test_a_file_that_is_wrong_is_refused(tmp_path, capsys, text, said):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(SystemExit):
        parsed(parser(), ["--config", str(file)])
    assert said in capsys.readouterr().err


def test_the_pace_is_that_of_the_runs_that_were_made():
    now = [0.0]
    pace = Pace(10, clock=lambda: now[0])
    pace.skip(4)
    now[0] = 60.0
    assert pace.step() == "5 of 10, about 5 min to go"
    now[0] = 7200.0
    assert pace.step() == "6 of 10, about 4.0 h to go"
