"""add_weighted_adapter of PEFT: asked.json -> answer.json, and a checkpoint in the folder that is asked for."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import peft
import torch
from transformers import AutoModel


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    names = {module_id: f"m{number}" for number, module_id in enumerate(sorted(asked["modules"]))}
    torch.manual_seed(0)  # dare draws what it drops
    backbone = AutoModel.from_pretrained(asked["model"])
    begun = time.perf_counter()
    folders = {name: asked["modules"][module_id] for module_id, name in names.items()}
    model = peft.PeftModel.from_pretrained(backbone, folders["m0"], adapter_name="m0")
    for name, folder in folders.items():
        if name != "m0":
            model.load_adapter(folder, adapter_name=name)
    loaded = time.perf_counter()
    weights = [asked["weights"][module_id] for module_id in names]
    model.add_weighted_adapter(
        list(names.values()), weights, "merged", combination_type=asked["combination"], **asked["options"]
    )
    seconds = time.perf_counter() - loaded
    model.save_pretrained(asked["out"], selected_adapters=["merged"])
    answer = {
        "folder": str(Path(asked["out"]) / "merged"),
        "version": f"peft {peft.__version__}",
        "seconds_load": round(loaded - begun, 3),
        "seconds_merge": round(seconds, 3),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
