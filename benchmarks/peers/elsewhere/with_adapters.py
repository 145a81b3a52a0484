"""average_adapter of AdapterHub's `adapters`: asked.json -> answer.json, and a checkpoint where it is asked for."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import adapters
from transformers import AutoModel


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    names = {module_id: f"m{number}" for number, module_id in enumerate(sorted(asked["modules"]))}
    model = AutoModel.from_pretrained(asked["model"])
    adapters.init(model)
    begun = time.perf_counter()
    for module_id, name in names.items():
        model.load_adapter(asked["modules"][module_id], load_as=name, use_safetensors=True)
    loaded = time.perf_counter()
    weights = [asked["weights"][module_id] for module_id in names]
    model.average_adapter("merged", list(names.values()), weights=weights)
    seconds = time.perf_counter() - loaded
    out = Path(asked["out"]) / "merged"
    model.save_adapter(str(out), "merged", use_safetensors=True)
    answer = {
        "folder": str(out),
        "version": f"adapters {adapters.__version__}",
        "seconds_load": round(loaded - begun, 3),
        "seconds_merge": round(seconds, 3),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
