"""How long things take: python -m benchmarks.speed init, deltas, merging or serving. What follows goes to it."""

from __future__ import annotations

import argparse
import subprocess
import sys

PARTS = ("init", "deltas", "merging", "serving")


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    options, rest = parser.parse_known_args()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.speed.{options.part}", *rest], check=False)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
