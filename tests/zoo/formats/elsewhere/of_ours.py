"""Checkpoints of ours in the formats of others, with the outputs that ours gives, for the others to load.

    python tests/zoo/formats/elsewhere/of_ours.py FOLDER

writes FOLDER/FORMAT/CASE; `with_opendelta.py check FOLDER/opendelta` and `with_adapters.py check FOLDER/adapterhub`
load each of them in an environment of their own and compare.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from models import arch_of, build, drawn, outputs
from safetensors.torch import save_file

from transfer.deltas import Adapter, LoRA, Prefix
from zoo.formats import get_format

CASES = {
    "opendelta": {
        "bert-lora": LoRA(rank=2, alpha=6),
        "bert-adapter": Adapter(bottleneck=3, activation="silu"),
        "bert-prefix": Prefix(length=3, position_shift=False),
        "roberta-adapter": Adapter(bottleneck=3, activation="gelu"),
        "gpt2-adapter": Adapter(bottleneck=3),
        "gpt2-prefix": Prefix(length=3, position_shift=False),
        "t5-lora": LoRA(rank=2, where=("SelfAttention.q", "ff.w2")),
        "t5-adapter": Adapter(bottleneck=3, activation="tanh"),
    },
    "adapterhub": {
        "bert-lora": LoRA(rank=2, alpha=6),
        "bert-lora-some": LoRA(rank=3, alpha=5, dropout=0.1, where=("attn.k[1]", "ff.w2[1]")),
        "bert-houlsby": Adapter(bottleneck=3),
        "bert-pfeiffer": Adapter(bottleneck=3, activation="relu", reads="sum", where=("ff.norm",)),
        "bert-second": Adapter(bottleneck=3, activation="gelu", reads="sum", where=("ff.norm[1]",)),
        "roberta-mixed": Adapter(bottleneck=3, activation="silu", where=("attn.proj[0]", "ff.w2[1]")),
        "distilbert-houlsby": Adapter(bottleneck=3, activation="tanh"),
        "bart-pfeiffer": Adapter(bottleneck=3, reads="sum", where=("attn.norm", "crossattn.norm", "ff.norm")),
        "gpt2-lora": LoRA(rank=2, alpha=6),
        "gpt2-pfeiffer": Adapter(bottleneck=3, reads="sum", where=("block",)),
        "gpt2-houlsby": Adapter(bottleneck=3),
        "llama-pfeiffer": Adapter(bottleneck=3, reads="sum", where=("block",)),
        "mbart-pfeiffer": Adapter(bottleneck=3, reads="sum", where=("block",)),
        "deberta-v2-lora": LoRA(rank=2, alpha=6),
        "t5-lora": LoRA(rank=2, where=("SelfAttention.q", "ff.w2")),
        "t5-houlsby": Adapter(bottleneck=3),
    },
}


def write(folder: Path, format_: str, case: str) -> None:
    method, model = CASES[format_][case], build(arch_of(case))
    tensors = {name: drawn(name, shape) for name, shape in method.shapes(model).items()}
    attached = method.attach(model, tensors)
    expected = outputs(model)
    attached.detach()
    assert not torch.allclose(outputs(model), expected, atol=1e-2), "a delta that does nothing shows nothing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    get_format(format_).write(folder, method.method, method.settings(model), tensors, "tiny")
    save_file({"outputs": expected}, folder / "expected.safetensors")


if __name__ == "__main__":
    for format_, cases in CASES.items():
        for case in cases:
            write(Path(sys.argv[1]) / format_ / case, format_, case)
