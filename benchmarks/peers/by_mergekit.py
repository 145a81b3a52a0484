"""mergekit: it merges whole models, so each module is folded into a copy of the backbone first.

`mergekit-pytorch` merges the files tensor by tensor; `mergekit-yaml` cannot: its plan of BERT adds a tuple to a list
(mergekit 0.1.5). The merged model is no LoRA. Two starts are made of it: what mergekit's own `mergekit-extract-lora`
makes of it at the rank of the modules, which can be tuned like the others; and the whole model, as a LoRA of full rank,
which has so many more values to train that it is only tested as it is.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.peers.environments import Environment, PeerError
from benchmarks.strategies.problem import Made, Problem
from transfer.backbones import Backbone
from transfer.deltas import Delta, LoRA
from transfer.exporting import export_merged
from transfer.paths import cache_folder
from zoo import Module

ENVIRONMENT = Environment("mergekit", ("mergekit==0.1.5",), shared=True)
DENSITY = 0.2  # of ties, as in its paper
FILE, LORA_FILE = "model.safetensors", "adapter_model.safetensors"
ROUNDING = 1e-5  # of sums of equal values
_MODELS: dict[str, tempfile.TemporaryDirectory[str]] = {}  # of each backbone; gone when the process ends


def merged(problem: Problem, how: str, whole: bool = False) -> Made:
    """A start of `mergekit` with the same weight for every module.

    Args:
        problem: Its modules are LoRAs.
        how: `merge_method`, "linear" or "ties".
        whole: The model itself, in place of the LoRA that is extracted from it.
    """
    model, rank = problem.backbone.model, problem.target.method.settings(problem.backbone.model)["rank"]
    models = _folder(problem.backbone)
    files = [str(_exported(module, models, problem.backbone)) for module in problem.modules]
    places = sorted({name.rpartition(".")[0] for name in problem.target.start})
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
        folder = Path(name)
        (folder / "merge.json").write_text(json.dumps(recipe(how, files, str(models / "base" / FILE))))
        words = [] if whole else [str(rank), "|".join(f"^{place}$".replace(".", r"\.") for place in places)]
        told = ENVIRONMENT.run("inside_mergekit", name, str(models / "base"), *words)
        if whole:
            delta = as_lora(load_file(models / "base" / FILE), load_file(folder / "merged" / FILE), places, model)
        else:
            without_biases(folder / "lora" / LORA_FILE)
            delta = Delta.load(folder / "lora", model)
    about = {"peer_versions": told["versions"], "start_mib": told["start_mib"]}
    return Made(delta, about, seconds=told["seconds"])


def recipe(how: str, files: list[str], base: str) -> dict[str, Any]:
    """What `mergekit-pytorch` is told; JSON is YAML too. Weights are normalised, which is its default."""
    own: dict[str, Any] = {"weight": 1.0} | ({"density": DENSITY} if how == "ties" else {})
    models = [{"model": file, "parameters": own} for file in files]
    told: dict[str, Any] = {"merge_method": how, "dtype": "float32", "models": models}
    return told | ({"base_model": base, "parameters": {"normalize": True}} if how == "ties" else {})


def without_biases(file: Path) -> None:
    """Leave out the biases that are extracted beside every B: the changes of biases, which no LoRA here makes.

    Raises:
        PeerError: one is more than rounding.
    """
    tensors = load_file(file)
    biases = [name for name in tensors if name.endswith(".lora_B.bias")]
    for name in biases:
        if tensors.pop(name).abs().max() > ROUNDING:
            raise PeerError(f"the extracted LoRA changes a bias: {name}")
    save_file(tensors, file)


def as_lora(
    base: dict[str, torch.Tensor], changed: dict[str, torch.Tensor], places: list[str], model: torch.nn.Module
) -> Delta:
    """The change of a whole model, exactly: a LoRA whose A is the identity and whose B is the change.

    Raises:
        PeerError: the model changed elsewhere too.
    """
    weights = {f"{place}.weight" for place in places}
    others = [name for name in changed if name not in weights]
    elsewhere = [name for name in others if not torch.allclose(changed[name], base[name], rtol=1e-4, atol=ROUNDING)]
    if elsewhere:
        raise PeerError(f"the merged model also differs at {elsewhere[0]}")
    width = changed[f"{places[0]}.weight"].shape[1]
    tensors = {}
    for place in places:
        tensors[f"{place}.lora_A"] = torch.eye(width)
        tensors[f"{place}.lora_B"] = changed[f"{place}.weight"].float() - base[f"{place}.weight"].float()
    method = LoRA(rank=width, alpha=width, where=tuple(places))
    return Delta(method, tensors, method.settings(model))


def _folder(backbone: Backbone) -> Path:
    """With the bare backbone in base/."""
    if backbone.fingerprint not in _MODELS:
        cache_folder().mkdir(parents=True, exist_ok=True)
        _MODELS[backbone.fingerprint] = tempfile.TemporaryDirectory(dir=cache_folder(), prefix="whole-models-")
        backbone.model.save_pretrained(Path(_MODELS[backbone.fingerprint].name) / "base")
    return Path(_MODELS[backbone.fingerprint].name)


def _exported(module: Module, models: Path, backbone: Backbone) -> Path:
    """The file of the backbone with the module folded in, written once."""
    if not (models / module.id).exists():
        export_merged(module, models / module.id, backbone)
    return models / module.id / FILE
