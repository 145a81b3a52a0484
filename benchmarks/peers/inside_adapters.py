"""Run in AdapterHub's environment: load the modules, average them, save the average.

python -m benchmarks.peers.inside_adapters FOLDER STRATEGY OPTIONS

FOLDER has backbone/ and modules/m0, m1, ...; the average goes to FOLDER/average. The last line that is printed is JSON.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.memory import mark, risen


def main(name: str, strategy: str, options: str) -> None:
    """Seconds are those of loading, averaging and saving, with the backbone at hand."""
    import adapters  # type: ignore[import-not-found]
    from transformers import AutoModel

    folder = Path(name)
    model = AutoModel.from_pretrained(folder / "backbone")
    adapters.init(model)
    before = mark()
    begun = time.perf_counter()
    found = sorted((folder / "modules").iterdir(), key=lambda path: int(path.name[1:]))
    for path in found:
        model.load_adapter(str(path), load_as=path.name, use_safetensors=True)
    names = [path.name for path in found]
    model.average_adapter("average", names, combine_strategy=strategy, **json.loads(options))
    model.save_adapter(str(folder / "average"), "average", use_safetensors=True)
    seconds = time.perf_counter() - begun
    versions = {package: version(package) for package in ("adapters", "transformers", "torch")}
    print(json.dumps({"seconds": seconds, "start_mib": risen(before), "versions": versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
