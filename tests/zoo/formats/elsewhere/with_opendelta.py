"""Fixtures that the real OpenDelta wrote, and a check that it loads what we write.

OpenDelta 0.3.2 needs an older transformers, so it runs in an environment of its own:

    python3.11 -m venv opendelta-env
    opendelta-env/bin/pip install 'torch>=2.6,<2.14' 'numpy<2' transformers==4.30.2 'setuptools<70' scipy decorator \
        rich web.py gitpython pyyaml sentencepiece yacs oss2
    opendelta-env/bin/pip install --no-deps opendelta==0.3.2 delta-center-client==0.0.4
    opendelta-env/bin/python tests/zoo/formats/elsewhere/with_opendelta.py write
    python tests/zoo/formats/elsewhere/of_ours.py ours
    opendelta-env/bin/python tests/zoo/formats/elsewhere/with_opendelta.py check ours/opendelta
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from models import build, fill, outputs
from opendelta import AdapterModel, AutoDeltaModel, LoraModel, LowRankAdapterModel, ParallelAdapterModel, PrefixModel
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent / "opendelta"
NETWORK = {"prefix_token_num": 3, "embed_dim": 4, "mid_dim": 5}
FF = ["intermediate.dense", r"[r][0-9]\.output\.dense"]

# name -> (architecture, class, settings)
CASES = {
    "bert-lora": ("bert", LoraModel, {"lora_r": 2, "lora_alpha": 6}),
    "bert-adapter": ("bert", AdapterModel, {"bottleneck_dim": 3}),
    "bert-prefix": ("bert", PrefixModel, {"prefix_token_num": 3, "reparameterize": False}),
    "bert-classifier-lora": ("bert-classifier", LoraModel, {"lora_r": 2, "unfrozen_modules": ["deltas", "classifier"]}),
    "bert-low-rank": ("bert", LowRankAdapterModel, {"reduction_factor": 4}),
    "bert-parallel": ("bert", ParallelAdapterModel, {"bottleneck_dim": 3, "modified_modules": FF}),
    "roberta-prefix": ("roberta", PrefixModel, NETWORK),
    "gpt2-adapter": ("gpt2", AdapterModel, {"bottleneck_dim": 3, "non_linearity": "relu"}),
    "gpt2-prefix": ("gpt2", PrefixModel, NETWORK),
    "t5-lora": ("t5", LoraModel, {"lora_r": 2, "modified_modules": ["SelfAttention.q", "wo"]}),
    "t5-prefix": ("t5", PrefixModel, {"prefix_token_num": 3, "reparameterize": False}),
}


def is_delta(model, delta):
    inside = {id(value) for value in delta.parameters()} | {
        id(value) for value in model.parameters() if getattr(value, "_is_delta", False)
    }
    names = {name for name, value in model.named_parameters() if id(value) in inside}
    return names.__contains__


def write(name: str) -> None:
    arch, kind, settings = CASES[name]
    settings = dict(settings)
    unfrozen = settings.pop("unfrozen_modules", ["deltas"])
    model = build(arch)
    delta = kind(backbone_model=model, **settings)
    fill(model, is_delta(model, delta))
    delta.freeze_module(exclude=unfrozen, set_state_dict=True)
    shutil.rmtree(HERE / name, ignore_errors=True)
    delta.save_finetuned(str(HERE / name))
    model.eval()
    model, bare = (getattr(found, "bert", found) for found in (model, build(arch)))
    save_file({"outputs": outputs(model), "bare": outputs(bare)}, HERE / name / "expected.safetensors")


def check(folder: Path) -> None:
    arch = folder.name.partition("-")[0]
    model = build(arch)
    bare = outputs(model)
    AutoDeltaModel.from_finetuned(str(folder), backbone_model=model)
    expected = load_file(folder / "expected.safetensors")["outputs"]
    found = outputs(model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, bare, atol=1e-2)
    print(
        f"{folder.name}: OpenDelta computes what we do; largest difference {float((found - expected).abs().max()):.1e}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        for case in sys.argv[2:] or CASES:
            write(case)
    else:
        for folder in sorted(Path(sys.argv[2]).iterdir()):
            check(folder)
