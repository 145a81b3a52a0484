"""Many modules on one backbone: rows a second of mixed batches, and the cost of going from module to module.

    python -m benchmarks.speed.serving            on the embedded backbone, a few minutes
    python -m benchmarks.speed.serving --smoke    on a small random one, within a minute

Each row of the file is one way of doing it. Ways of one kind run in turns, in the same process on the same batches,
and each gives its fastest turn:

- `forward`: batches in which every row names one of `modules` modules. `mixed` is ours in one forward pass,
  `one by one` ours with `Switch` and a pass for each module of the batch, `peft` its LoRA with `adapter_names`, `bare`
  no module.
- `switch`: milliseconds to make another of `modules` modules the one that acts, the median of the first ten and of the
  last ten. `switch` is ours, `attach` puts a new delta on each time, `peft` is `set_adapter` with all of them loaded.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Rows
from transfer.deltas import METHODS, Delta, Mixed, Switch

HERE = Path(__file__).parent
KEY = ("kind", "way", "method", "modules", "batch", "length", "smoke")
TARGETS = ["query", "value"]


def random_deltas(model: Any, name: str, n: int) -> list[Delta]:
    """Deltas of a method's default settings with values that act."""
    method, found = METHODS.get(name)(), []
    start = method.draw(model)
    for seed in range(n):
        generator = torch.Generator().manual_seed(seed)
        found.append(Delta(method, {k: torch.randn(v.shape, generator=generator) * 0.05 for k, v in start.items()}))
    return found


def small_model() -> Any:
    """For `--smoke`: random weights, nothing to load."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return BertModel(BertConfig(vocab_size=1000, **size)).eval()


def fresh_model(smoke: bool) -> Any:
    """The model that all ways start from."""
    if smoke:
        return small_model()
    from transfer.backbones import load_backbone

    return load_backbone("embedded").model


def best_of(ways: dict[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Seconds of the fastest turn of each way; they take turns, so that a slow moment hits all of them."""
    seconds = {name: float("inf") for name in ways}
    for run in ways.values():
        run()  # the first is never counted
    for _ in range(turns):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - begun)
    return seconds


def with_peft(model: Any, deltas: list[Delta]) -> Any:
    """PEFT's model with these LoRAs loaded, named by their numbers."""
    from peft import LoraConfig, get_peft_model

    method: Any = deltas[0].method
    config = LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=TARGETS)
    wrapped = get_peft_model(model, config, adapter_name="0")
    for number in range(1, len(deltas)):
        wrapped.add_adapter(str(number), config)
    parameters = dict(wrapped.named_parameters())
    with torch.no_grad():
        for number, delta in enumerate(deltas):
            for name, tensor in delta.tensors.items():
                place, _, local = name.rpartition(".")
                parameters[f"base_model.model.{place}.{local}.{number}.weight"].copy_(tensor)
    return wrapped.eval()


def forward(method: str, n_modules: int, batch: int, length: int, turns: int, smoke: bool) -> dict[str, float]:
    """Seconds of one batch by each way; outputs of all ways are compared first.

    Raises:
        AssertionError: two ways disagree.
    """
    model = fresh_model(smoke)
    deltas = random_deltas(model, method, n_modules)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 900, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    numbers = torch.randint(n_modules, (batch,), generator=generator)

    def run(model: Any, ids: torch.Tensor = ids, mask: torch.Tensor = mask, **more: Any) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        return found

    switching, serving = fresh_model(smoke), fresh_model(smoke)
    switch, mixed = Switch(switching), Mixed(serving, deltas).attach()

    def one_by_one() -> torch.Tensor:
        found = torch.empty(batch, length, switching.config.hidden_size)
        for number in numbers.unique().tolist():
            at = numbers == number
            switch.to(deltas[number])
            found[at] = run(switching, ids[at], mask[at])
        return found

    def in_one() -> torch.Tensor:
        with mixed.rows(numbers):
            return run(serving)

    ways: dict[str, Callable[[], Any]] = {"bare": lambda: run(model), "one by one": one_by_one, "mixed": in_one}
    if method == "lora":
        wrapped = with_peft(fresh_model(smoke), deltas)
        names = [str(number) for number in numbers.tolist()]
        ways["peft"] = lambda: run(wrapped, adapter_names=names)
    wanted = one_by_one()
    for name in ways.keys() - {"bare"}:
        assert torch.allclose(ways[name](), wanted, atol=1e-3), f"{name} gives other outputs"
    return best_of(ways, turns)


def going_through(method: str, n_modules: int, smoke: bool) -> dict[str, tuple[float, float]]:
    """Milliseconds of a switch by each way: the median of the first and of the last ten."""
    model = fresh_model(smoke)
    deltas = random_deltas(model, method, n_modules)
    switch = Switch(model)
    seconds: dict[str, list[float]] = {"switch": [], "attach": []}
    switch.to(deltas[0])
    for delta in deltas:
        seconds["switch"].append(timed(partial(switch.to, delta)))
    switch.to(None)
    for delta in deltas:
        begun = time.perf_counter()
        attached = delta.attach(model)
        seconds["attach"].append(time.perf_counter() - begun)
        attached.detach()
    if method == "lora":
        wrapped = with_peft(fresh_model(smoke), deltas)
        seconds["peft"] = [timed(partial(wrapped.set_adapter, str(n))) for n in range(n_modules)]
    return {
        name: (1e3 * statistics.median(values[:10]), 1e3 * statistics.median(values[-10:]))
        for name, values in seconds.items()
    }


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


@torch.inference_mode()
def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smoke", action="store_true", help="a small random model and few modules")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "serving.jsonl")
    options = parser.parse_args()
    if options.smoke:
        options.out = options.out.with_name("serving-smoke.jsonl")
    rows = Rows(options.out, KEY)
    sizes = [(4, 8, 16)] if options.smoke else [(4, 32, 64), (16, 32, 64), (32, 32, 64)]
    for method in ("lora", "adapter", "prefix"):
        for n_modules, batch, length in sizes:
            key = {"method": method, "modules": n_modules, "batch": batch, "length": length, "smoke": options.smoke}
            if rows.done(kind="forward", way="mixed", **key) is None:
                seconds = forward(method, n_modules, batch, length, options.turns, options.smoke)
                for way, value in seconds.items():
                    rows.add(kind="forward", way=way, **key, seconds=round(value, 5), rows_per_second=batch / value)
                    print(f"{method}, {n_modules} modules, {way}: {batch / value:.1f} rows a second", flush=True)
        n_modules = 20 if options.smoke else 200
        key = {"method": method, "modules": n_modules, "batch": None, "length": None, "smoke": options.smoke}
        if rows.done(kind="switch", way="switch", **key) is None:
            for way, (first, last) in going_through(method, n_modules, options.smoke).items():
                rows.add(kind="switch", way=way, **key, ms_first=round(first, 3), ms_last=round(last, 3))
                print(f"{method}, {n_modules} modules, {way}: {first:.2f} ms, at the end {last:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
