"""The whole question: which ranking of source modules is right?

    TRANSFER_TASKS=DIR python -m benchmarks.estimators            matrix as it is, matrix after 60 steps (LoRA), scores
    python -m benchmarks.estimators --report                      the table and the heat map of what is there
    TRANSFER_TASKS=DIR python -m benchmarks.estimators --smoke    a minute

Each part can be killed and goes on where it was. Other words go to every part: --targets trec,boolq. --config FILE is a
JSON object of them; under "matrix" and "run" stand those that only one part has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def words_of(config: dict[str, Any], part: str) -> list[str]:
    """The options of one part, as on a command line."""
    shared = {name: value for name, value in config.items() if name not in ("matrix", "run")}
    found = {**shared, **config.get(part, {})}
    return [
        word
        for name, value in found.items()
        for word in (f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value))
    ]


def main() -> None:
    """Run the parts one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="make the tables, run nothing")
    parser.add_argument("--smoke", action="store_true", help="ends in a minute")
    parser.add_argument("--config", type=Path, help="a JSON object of options")
    options, rest = parser.parse_known_args()
    config = {} if options.config is None else json.loads(options.config.read_text(encoding="utf-8"))
    parts = [["matrix"], ["matrix", "--steps", "60", "--methods", "lora"], ["run"]]
    if options.smoke:
        parts = [["matrix", "--smoke"], ["run", "--smoke"]]
    if options.report:
        parts = [["report"], ["picture"]]
    for part in parts:
        words = [*words_of(config, part[0]), *part[1:], *rest]  # of an option that stands there twice the last counts
        subprocess.run([sys.executable, "-m", f"benchmarks.estimators.{part[0]}", *words], check=True)


if __name__ == "__main__":
    main()
