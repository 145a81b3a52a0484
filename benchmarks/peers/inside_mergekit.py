"""Run in mergekit's environment: merge whole models, and extract a LoRA from the result.

python -m benchmarks.peers.inside_mergekit FOLDER BASE [RANK PLACES]

FOLDER has merge.json; the merged model goes to FOLDER/merged and, with a rank and an expression for names of places, a
LoRA of it to FOLDER/lora. The last line that is printed is JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.memory import mark, risen


def main(name: str, base: str, rank: str = "", places: str = "") -> None:
    """Seconds are those of the commands alone, without their imports."""
    from mergekit.scripts import extract_lora, merge_raw_pytorch  # type: ignore[import-not-found]

    # The page about the LoRA is written last, and asks the Hub about the base model, which here is a folder.
    extract_lora.generate_card_lora = lambda *_, **__: ""
    folder = Path(name)
    before = mark()
    begun = time.perf_counter()
    merge_raw_pytorch.main([str(folder / "merge.json"), str(folder / "merged")], standalone_mode=False)
    if rank:
        shutil.copy(Path(base) / "config.json", folder / "merged")
        words = ["--model", str(folder / "merged"), "--base-model", base, "--out-path", str(folder / "lora")]
        words += ["--max-rank", rank, "--include-regex", places, "--exclude-regex", "embeddings"]
        extract_lora.main(words, standalone_mode=False)
    seconds = time.perf_counter() - begun
    versions = {package: version(package) for package in ("mergekit", "transformers", "torch")}
    print(json.dumps({"seconds": seconds, "start_mib": risen(before), "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
