"""The whole question: which ranking of source modules is right?

    TRANSFER_TASKS=DIR python -m benchmarks.estimators            matrix as it is, matrix after 60 steps (LoRA), scores
    python -m benchmarks.estimators --report                      the table and the heat map of what is there
    TRANSFER_TASKS=DIR python -m benchmarks.estimators --smoke    a minute

Each part can be killed and goes on where it was. Other words go to every part: --targets trec,boolq.
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    """Run the parts one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="make the tables, run nothing")
    parser.add_argument("--smoke", action="store_true", help="ends in a minute")
    options, rest = parser.parse_known_args()
    parts = [["matrix"], ["matrix", "--steps", "60", "--methods", "lora"], ["run"]]
    if options.smoke:
        parts = [["matrix", "--smoke"], ["run", "--smoke"]]
    if options.report:
        parts = [["report"], ["picture"]]
    for part in parts:
        subprocess.run([sys.executable, "-m", f"benchmarks.estimators.{part[0]}", *part[1:], *rest], check=True)


if __name__ == "__main__":
    main()
