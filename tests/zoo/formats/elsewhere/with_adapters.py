"""Fixtures that the real `adapters` package wrote, and a check that it loads what we write.

adapters 1.3 pins an older transformers, so it runs in an environment of its own:

    python3.11 -m venv adapters-env
    adapters-env/bin/pip install 'torch>=2.6,<2.14' adapters==1.3.0
    adapters-env/bin/python tests/zoo/formats/elsewhere/with_adapters.py write
    python tests/zoo/formats/elsewhere/of_ours.py ours
    adapters-env/bin/python tests/zoo/formats/elsewhere/with_adapters.py check ours/adapterhub
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import adapters
import torch
from models import arch_of, build, fill, outputs
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent / "adapterhub"
NARROW = {"reduction_factor": 4}

# name -> (architecture, what is added: a name of the package's and settings)
CASES = {
    "bert-pfeiffer": ("bert", adapters.SeqBnConfig(**NARROW)),
    "bert-houlsby": ("bert", adapters.DoubleSeqBnConfig(**NARROW)),
    "bert-scaled": ("bert", adapters.SeqBnConfig(**NARROW, scaling=0.5, non_linearity="gelu", leave_out=[0])),
    "bert-channel": ("bert", adapters.SeqBnConfig(**NARROW, scaling="channel", mh_adapter=True)),
    "bert-lora": ("bert", adapters.LoRAConfig(r=2, alpha=6, intermediate_lora=True)),
    "bert-parallel": ("bert", adapters.ParBnConfig(**NARROW)),
    "bert-compacter": ("bert", adapters.CompacterConfig(**NARROW, phm_dim=2)),
    "bert-invertible": ("bert", adapters.SeqBnInvConfig(**NARROW)),
    "bert-ia3": ("bert", adapters.IA3Config()),
    "bert-prefix": ("bert", adapters.PrefixTuningConfig(prefix_length=2, bottleneck_size=4)),
    "bert-classifier-pfeiffer": ("bert-classifier", adapters.SeqBnConfig(**NARROW)),
    "roberta-houlsby": ("roberta", adapters.DoubleSeqBnConfig(**NARROW)),
    "distilbert-double": ("distilbert", adapters.SeqBnConfig(**NARROW, mh_adapter=True)),
    "bart-pfeiffer": ("bart", adapters.SeqBnConfig(**NARROW, mh_adapter=True, cross_adapter=True)),
    "gpt2-pfeiffer": ("gpt2", adapters.SeqBnConfig(**NARROW)),
    "gpt2-houlsby": ("gpt2", adapters.DoubleSeqBnConfig(**NARROW)),
    "gpt2-lora": ("gpt2", adapters.LoRAConfig(r=2, alpha=4, output_lora=True)),
    "gpt2-sum-within": ("gpt2", adapters.SeqBnConfig(**NARROW, mh_adapter=True)),
    "llama-pfeiffer": ("llama", adapters.SeqBnConfig(**NARROW)),
    "mbart-pfeiffer": ("mbart", adapters.SeqBnConfig(**NARROW)),
    "deberta-v2-lora": ("deberta-v2", adapters.LoRAConfig(r=2, attn_matrices=["q", "k"])),
    "deberta-v2-pfeiffer": ("deberta-v2", adapters.SeqBnConfig(**NARROW)),
    "t5-pfeiffer": ("t5", adapters.SeqBnConfig(**NARROW, mh_adapter=True, cross_adapter=True)),
    "t5-houlsby": ("t5", adapters.DoubleSeqBnConfig(**NARROW, cross_adapter=True)),
    "t5-lora": ("t5", adapters.LoRAConfig(r=2, attn_matrices=["k"], output_lora=True)),
}
PICKLED = ("bert-houlsby", "gpt2-lora", "bert-prefix")  # as the package does unless it is told otherwise


def write(name: str) -> None:
    arch, config = CASES[name]
    model = build(arch)
    adapters.init(model)
    model.add_adapter("films", config=config)
    fill(model, lambda parameter: ".films." in parameter)
    model.set_active_adapters("films")
    model.eval()
    shutil.rmtree(HERE / name, ignore_errors=True)
    HERE.mkdir(exist_ok=True)
    model.save_adapter(str(HERE / name), "films", use_safetensors=name not in PICKLED)
    if "classifier" in name:
        model.save_head(str(HERE / name), use_safetensors=True)
    model, bare = (getattr(found, "bert", found) for found in (model, build(arch)))
    save_file({"outputs": outputs(model), "bare": outputs(bare)}, HERE / name / "expected.safetensors")


def check(folder: Path) -> None:
    model = build(arch_of(folder.name))
    bare = outputs(model)
    adapters.init(model)
    told: dict[str, list[str]] = {}
    name = model.load_adapter(str(folder), use_safetensors=True, set_active=True, loading_info=told)
    assert not told["unexpected_keys"], told
    model.eval()
    assert name == "delta"
    expected, found = load_file(folder / "expected.safetensors")["outputs"], outputs(model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, bare, atol=1e-2)
    difference = float((found - expected).abs().max())
    print(f"{folder.name}: adapters computes what we do; largest difference {difference:.1e}")
    if missing := told["missing_keys"]:
        print(f"    it added {len(missing)} tensors that change nothing, {missing[0]} for example")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        for case in sys.argv[2:] or CASES:
            write(case)
    else:
        for folder in sorted(Path(sys.argv[2]).iterdir()):
            check(folder)
