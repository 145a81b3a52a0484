"""Merging LoRA modules of the embedded backbone: seconds and peak memory, beside PEFT's `add_weighted_adapter`.

    python -m benchmarks.speed.merging             64 modules, one row per library and rule
    python -m benchmarks.speed.merging --smoke     4 modules, nothing is written

Every row is measured in a process of its own, with one thread. Both libraries find the same checkpoints on disk.
`from_disk` is a merge of files that were not opened before (ours: read as they are merged; PEFT's: every adapter is
loaded into the model first), and `peak_mib` how far that raised the resident memory above that of the process with the
backbone loaded. `seconds` is the merge alone, of tensors that are in memory, the best of five.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory import mark, resident
from benchmarks.rows import Rows

HERE = Path(__file__).parent
KEY = ("library", "how", "modules")
HOWS = ("linear", "svd", "ties", "dare")
DENSITY, RANK = 0.2, 8


def make_zoo(folder: Path, n: int) -> None:
    """A zoo of n modules around the start of the starter zoo's: its LoRA modules, moved at random."""
    import torch

    from zoo import Module, Zoo

    base = Zoo.starter().find(method="lora")
    base = [module for module in base if module.card.settings == base[0].card.settings]
    zoo, generator = Zoo(folder), torch.Generator().manual_seed(0)
    start = dict(base[0].start() or {})
    for number in range(n):
        module = base[number % len(base)]
        moved = {
            name: (tensor.float() + 0.01 * torch.randn(tensor.shape, generator=generator)).half()
            for name, tensor in module.tensors().items()
        }
        zoo.add(Module.new(module.card.changed(task=f"task-{number}"), moved, start=start))


def ours(zoo: Path, how: str) -> tuple[Callable[[], object], Callable[[], object], Callable[[], Any]]:
    """(what opens the modules, what takes them into memory, what merges them)."""
    import transfer.similarity.switching  # noqa: F401  (imported before the clock runs, as PEFT is)
    from transfer.backbones import load_backbone
    from transfer.ensembling import merge
    from zoo import Module, Zoo

    backbone = load_backbone("embedded")
    assert backbone.fingerprint
    options: dict[str, Any] = {"svd": {"rank": RANK}, "ties": {"density": DENSITY}, "dare": {"density": DENSITY}}
    modules: list[Any] = []

    def read() -> None:
        modules.extend(Zoo(zoo).find(method="lora"))

    def keep() -> None:
        start = dict(modules[0].start() or {})
        modules[:] = [Module.new(m.card, dict(m.tensors()), start=start) for m in modules]

    def run() -> Any:
        return merge(modules, {module.id: 1 / len(modules) for module in modules}, how, **options.get(how, {}))

    return read, keep, run


def theirs(zoo: Path, how: str) -> tuple[Callable[[], object], Callable[[], object], Callable[[], Any]]:
    """The same by PEFT."""
    import peft

    from transfer.backbones import load_backbone

    model = load_backbone("embedded").model
    folders = sorted((zoo / "modules").iterdir())
    held: list[Any] = []
    options: dict[str, Any] = {"svd": {"svd_rank": RANK}, "ties": {"density": DENSITY}, "dare": {"density": DENSITY}}
    names = {"dare": "dare_linear"}

    def read() -> None:
        held.append(peft.PeftModel.from_pretrained(model, folders[0], adapter_name="m0"))
        for number, folder in enumerate(folders[1:], 1):
            held[0].load_adapter(folder, adapter_name=f"m{number}")

    def run() -> Any:
        adapters = [f"m{number}" for number in range(len(folders))]
        if "merged" in held[0].peft_config:
            held[0].delete_adapter("merged")
        held[0].add_weighted_adapter(
            adapters,
            [1 / len(adapters)] * len(adapters),
            "merged",
            combination_type=names.get(how, how),
            **options.get(how, {}),
        )

    return read, lambda: None, run  # they are in memory once they are read


def measured(library: str, how: str, zoo: Path, repeats: int) -> dict[str, float]:
    """Seconds and memory of one library and rule, in this process."""
    import torch

    torch.set_num_threads(1)
    read, keep, run = (ours if library == "transfer" else theirs)(zoo, how)
    before = mark()
    begun = time.perf_counter()
    read()
    run()
    from_disk = time.perf_counter() - begun
    peak = resident("VmHWM") - before
    keep()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return {"seconds": round(min(seconds), 4), "from_disk": round(from_disk, 3), "peak_mib": round(peak, 1)}


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--modules", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hows", default=",".join(HOWS))
    parser.add_argument("--out", type=Path, default=HERE / "merging.jsonl")
    parser.add_argument("--smoke", action="store_true", help="4 modules, once, and no file unless --out is given")
    parser.add_argument("--child", nargs=3, metavar=("LIBRARY", "HOW", "ZOO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        library, how, zoo = options.child
        print(json.dumps(measured(library, how, Path(zoo), options.repeats)))
        return
    n, repeats = (4, 1) if options.smoke else (options.modules, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "smoke.jsonl" if options.smoke and options.out == HERE / "merging.jsonl" else options.out
        rows = Rows(out, KEY)
        zoo = Path(folder) / "zoo"
        make_zoo(zoo, n)
        for how in options.hows.split(","):
            for library in ("transfer", "peft"):
                if rows.done(library=library, how=how, modules=n) is not None:
                    continue
                command = [sys.executable, "-m", "benchmarks.speed.merging", "--repeats", str(repeats)]
                command += ["--child", library, how, str(zoo)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode != 0:
                    raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
                row = json.loads(done.stdout.splitlines()[-1])
                rows.add(library=library, how=how, modules=n, **row)
                print(json.dumps({"library": library, "how": how, "modules": n, **row}), flush=True)


if __name__ == "__main__":
    main()
