"""How long `transfer init` takes as a whole command, per method and family of estimators, guard included.

    TRANSFER_TASKS=DIR python -m benchmarks.speed.init --target boolq

Each row is one run of the command in a process of its own. The limit is 90 seconds on two cores, 150 for `prediction`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Rows

HERE = Path(__file__).parent
FAMILIES = ("embedding", "gradient", "parameters", "prediction", "neighbours")
METHODS = ("lora", "adapter", "prefix")


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="boolq")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=HERE / "init.jsonl")
    parser.add_argument("--again", action="store_true", help="run also what the file has")
    options = parser.parse_args()
    rows = Rows(options.out, ("target", "method", "estimator"))
    for method in options.methods.split(","):
        for family in options.families.split(","):
            key = {"target": options.target, "method": method, "estimator": family}
            if rows.done(**key) is not None and not options.again:
                continue
            with tempfile.TemporaryDirectory() as folder:
                command = [str(Path(sys.executable).with_name("transfer")), "init", "--target", options.target]
                command += ["--method", method, "--estimator", family, "--out", f"{folder}/init", "--json"]
                begun = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                seconds = time.perf_counter() - begun
            if done.returncode != 0:
                raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
            recipe = json.loads(done.stdout)
            verdict = recipe.get("verdict") or {}
            rows.add(
                **key,
                seconds=round(seconds, 1),
                stages=recipe["seconds"],
                sources=len(recipe["scores"]),
                verdict=verdict.get("outcome"),
            )
            print(f"{method} {family}: {seconds:.1f} s, {verdict.get('outcome')}", flush=True)


if __name__ == "__main__":
    main()
