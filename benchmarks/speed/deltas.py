"""How long deltas take, ours and those of PEFT, on the embedded backbone.

    OMP_NUM_THREADS=2 python -m benchmarks.speed.deltas
    python -m benchmarks.speed.deltas --smoke

- `step` and `forward`: a training step (forward, backward, AdamW) and a forward without gradients. LoRA and prefix have
  the settings and the tensors of PEFT's, and answer alike, which is checked first; the adapter, which PEFT has none of,
  stands beside PEFT's LoRA. Both sides by turns; the ratio is ours over theirs, with a 95% interval over rounds.
- `attach`: many LoRAs put on one model one after the other, all of which stay on, against PEFT's `add_adapter`.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from torch import nn

from benchmarks.rows import Rows
from benchmarks.speed.deltas_table import HERE, KEY
from benchmarks.speed.paired import Paired, time_by_turns
from transfer.deltas import Adapter, Attached, LoRA, Prefix

RANK, ALPHA, PREFIX = 8, 16, 16
SIZES = ((16, 32), (16, 128))  # texts and tokens of each
METHODS = ("lora", "adapter", "prefix")

Batch = dict[str, torch.Tensor]


def ours(base: nn.Module, method: str) -> tuple[nn.Module, Attached]:
    """A copy of the model with our delta on it."""
    makers = {"lora": LoRA(rank=RANK, alpha=ALPHA), "adapter": Adapter(), "prefix": Prefix(length=PREFIX)}
    model = copy.deepcopy(base)
    return model, makers[method].attach(model)


def theirs(base: nn.Module, method: str) -> PeftModel:
    """A copy of the model with PEFT's LoRA or prefix on it; its LoRA stands for an adapter too."""
    kind = "FEATURE_EXTRACTION"
    if method == "prefix":
        config: Any = PrefixTuningConfig(task_type=kind, num_virtual_tokens=PREFIX)
    else:
        config = LoraConfig(task_type=kind, r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    return get_peft_model(copy.deepcopy(base), config)


@torch.no_grad()
def copy_tensors(attached: Attached, peft: PeftModel) -> None:
    """Give PEFT's delta the tensors of ours, drawn anew so that they do something.

    Raises:
        ValueError: a tensor of ours has no counterpart there.
    """
    generator = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(x.shape, generator=generator) * 0.05 for n, x in attached.state_dict().items()}
    attached.load_state_dict(tensors)
    prompts = [p for name, p in peft.named_parameters() if "prompt_encoder" in name]
    if prompts:  # (length, layers * 2 * width): key and value of the first layer, of the second, ...
        prompts[0].copy_(torch.cat(list(tensors.values()), dim=1))
        return
    parameters = dict(peft.named_parameters())
    for name, tensor in tensors.items():
        parameters[f"base_model.model.{name}.default.weight"].copy_(tensor)


def batch_of(base: nn.Module, size: int, length: int) -> Batch:
    """Token ids at random, none of them padding."""
    generator = torch.Generator().manual_seed(0)
    config: Any = base.config
    ids = torch.randint(5, config.vocab_size, (size, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def step_of(model: nn.Module, batch: Batch) -> Callable[[], object]:
    """One training step of what is trainable."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()

    def step() -> None:
        loss = model(**batch).last_hidden_state.mean(dim=1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def forward_of(model: nn.Module, batch: Batch) -> Callable[[], object]:
    """One forward without gradients."""
    model.eval()

    def forward() -> torch.Tensor:
        with torch.no_grad():
            states: torch.Tensor = model(**batch).last_hidden_state
            return states

    return forward


def compare(base: nn.Module, method: str, size: int, length: int, measure: str, rounds: int) -> Paired:
    """Time a method against its counterpart.

    Raises:
        ValueError: the two should answer alike and do not.
    """
    (model, attached), peft, batch = ours(base, method), theirs(base, method), batch_of(base, size, length)
    if method != "adapter":
        copy_tensors(attached, peft)
        one, other = forward_of(model, batch)(), forward_of(peft, batch)()
        if not torch.allclose(one, other, atol=1e-4):  # type: ignore[arg-type]
            raise ValueError(f"{method}: ours and PEFT's answer differently, so their times say nothing")
    make = step_of if measure == "step" else forward_of
    return time_by_turns(make(model, batch), make(peft, batch), rounds)


def attach_many(base: nn.Module, count: int) -> Paired:
    """Seconds of each of `count` LoRAs that are put on one model, by turns with PEFT."""
    model, peft, seconds = copy.deepcopy(base), theirs(base, "lora"), np.zeros((count, 2))
    method = LoRA(rank=RANK, alpha=ALPHA)
    config = LoraConfig(task_type="FEATURE_EXTRACTION", r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
    for number in range(count):
        begun = time.perf_counter()
        method.attach(model, seed=number)
        between = time.perf_counter()
        peft.add_adapter(f"number_{number}", config)
        seconds[number] = between - begun, time.perf_counter() - between
    return Paired(seconds[:, 0], seconds[:, 1])


def attach_row(pairs: Paired) -> dict[str, Any]:
    """Every time, and how much longer the last tenth takes than the first."""
    tenth = max(len(pairs.ours) // 10, 1)
    row: dict[str, Any] = {}
    for side, seconds in (("ours", pairs.ours), ("theirs", pairs.theirs)):
        first, last = float(np.median(seconds[:tenth])), float(np.median(seconds[-tenth:]))
        row |= {
            f"first_{side}": round(first, 5),
            f"last_{side}": round(last, 5),
            f"growth_{side}": round(last / first, 3),
        }
        row[f"seconds_{side}"] = [round(float(value), 5) for value in seconds]
    return row


def main() -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE / "deltas.jsonl")
    parser.add_argument("--smoke", action="store_true", help="a few rounds of one size, ten modules: ends in a minute")
    parser.add_argument("--again", action="store_true", help="run also what the file has")
    options = parser.parse_args()
    sizes: tuple[tuple[int, int], ...] = SIZES
    if options.smoke:
        options.rounds, options.modules, sizes, options.again = 3, 10, ((4, 16),), True
        options.out = options.out.with_name("deltas-smoke.jsonl")
    from transfer.backbones import load_backbone

    base, rows, threads = load_backbone("embedded").model, Rows(options.out, KEY), torch.get_num_threads()
    for measure in ("step", "forward"):
        for method in METHODS:
            for size, length in sizes:
                against = "peft prefix" if method == "prefix" else "peft lora"
                key: dict[str, Any] = {"measure": measure, "method": method, "against": against}
                key |= {"batch": size, "length": length}
                if rows.done(**key, threads=threads) is not None and not options.again:
                    continue
                pairs = compare(base, method, size, length, measure, options.rounds)
                low, high = pairs.interval()
                rows.add(
                    **key,
                    threads=threads,
                    rounds=options.rounds,
                    seconds_ours=float(np.median(pairs.ours)),
                    seconds_theirs=float(np.median(pairs.theirs)),
                    ratio=pairs.ratio,
                    ratio_low=low,
                    ratio_high=high,
                )
                print(f"{measure} {method} {size} x {length}: {pairs.ratio:.3f} ({low:.3f} to {high:.3f})", flush=True)
    key = {"measure": "attach", "method": "lora", "against": "peft lora", "batch": None, "length": None}
    if rows.done(**key, threads=threads) is None or options.again:
        row = rows.add(
            **key, threads=threads, modules=options.modules, **attach_row(attach_many(base, options.modules))
        )
        print(f"attach: ours x {row['growth_ours']:.2f}, PEFT x {row['growth_theirs']:.2f} over all", flush=True)


if __name__ == "__main__":
    main()
