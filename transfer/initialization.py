"""Initialization: the delta that training on a target starts from, with its recipe and its verdict."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from transfer.backbones.backbone import Backbone
from transfer.deltas import METHODS
from transfer.deltas.attached import Attached
from transfer.deltas.delta import Delta
from transfer.ensembling.verdict import Verdict
from transfer.errors import ConfigError
from zoo.errors import FingerprintError, FormatError
from zoo.files import check_file_hash, sha256
from zoo.folders import whole_folder
from zoo.formats import detect, format_for
from zoo.shapes import check_shapes

RECIPE = "recipe.json"
PAGE = "report.html"  # of `transfer init --explain`
SCHEMA = 1  # of the recipes written now
MOST_BYTES = 64 << 20  # of a recipe; with curves and thousands of sources it has a few million

# What a folder of `save` may hold; a folder with anything else in it is not replaced.
FILES = (RECIPE, PAGE, "adapter_config.json", "adapter_model.safetensors", "delta_config.json", "delta.safetensors")

MODELS = ("sequence-classification",)  # kinds of model, beside the bare backbone, that a folder can be written for


@dataclass(frozen=True, eq=False)
class Initialization:
    """What `initialize` gives.

    Args:
        delta: What training starts from. Where the verdict is "hurts" this is scratch, the shared start.
        recipe: How it came to be, plain JSON: modules, weights, scores, estimator, settings, seeds, versions, the
            backbone's fingerprint, the target, licences, seconds.
        verdict: What the guard says; None when it was not asked.
    """

    delta: Delta = field(repr=False)
    recipe: dict[str, Any] = field(repr=False)
    verdict: Verdict | None = None

    @property
    def name(self) -> str:
        """In a few words, as the provenance of what is tuned from it has it."""
        target = self.recipe["target"]["name"]
        if self.recipe["handed_over"] == "scratch" and self.recipe.get("auto"):
            return f"scratch, which nothing was better than for {target}"
        if self.recipe["handed_over"] == "scratch":
            return f"scratch, since the initialization for {target} hurts"
        return f"initialization for {target} from {len(self.recipe['modules'])} modules by {self.recipe['estimator']}"

    def check_fits(self, fingerprint: str, backbone_name: str, force: bool = False) -> None:
        """Refuse a backbone that it was not made for, unless `force`.

        Raises:
            FingerprintError: the fingerprints differ.
        """
        if force or fingerprint == self.recipe["fingerprint"]:
            return
        raise FingerprintError(
            f"{self.name} was not made for the backbone {backbone_name!r}",
            found=f"it was made for {self.recipe['backbone']!r} with fingerprint {self.recipe['fingerprint'][:8]}, "
            f"this one has {fingerprint[:8]}",
            hint="load the backbone it was made for, or use --force if you know that the weights agree",
        )

    def attach(self, backbone: Backbone, force: bool = False) -> Attached:
        """Put it on the backbone, ready to train; it replaces what is attached there.

        Args:
            backbone: The one it was made for.
            force: Take another one all the same.
        Raises:
            FingerprintError: it is another one.
            DeltaError: the tensors do not fit.
        """
        self.check_fits(backbone.fingerprint, backbone.name, force)
        return backbone.attach(self.delta)

    def save(self, folder: Path | str, for_model: str | None = None) -> Path:
        """Write the folder, whole or not at all. An initialization that is there is replaced, nothing else.

        LoRA and prefix (where PEFT has it) are PEFT checkpoints: `PeftModel.from_pretrained(model, folder)` loads
        them, a LoRA with `is_trainable=True`. Other deltas are `delta_config.json` and `delta.safetensors`.

        Args:
            folder: Gets the checkpoint and `recipe.json`.
            for_model: "sequence-classification" writes the names that a task class such as
                `BertForSequenceClassification` has, with its base model's name in front: without them PEFT would leave
                the model as it is, with no more than a warning. The head is new and frozen by PEFT:
                `model.base_model.classifier.requires_grad_(True)` trains it along. None writes the names of the bare
                backbone. `load` reads both.
        Raises:
            ConfigError: `for_model` is not known.
            PathError: the folder holds something else.
            FormatError: `for_model` is given and PEFT cannot hold the delta.
        """
        if for_model is not None and for_model not in MODELS:
            raise ConfigError(f"no kind of model named {for_model!r}", found=", ".join(MODELS))
        folder = Path(folder)
        recipe, method = self.recipe, self.delta.method.method
        front = recipe["base_model_prefix"] if for_model is not None else ""
        tensors = {f"{front}{name}": tensor for name, tensor in self.delta.tensors.items()}
        settings = _moved(self.delta.settings, front)
        format_ = format_for(method, settings, tensors)
        if for_model is not None and "peft" not in format_.__name__:
            raise FormatError(
                f"this {method} delta cannot be a checkpoint for {for_model}: PEFT does not hold it",
                hint="save it without for_model, and use it with load and attach",
            )
        with whole_folder(folder, FILES, RECIPE) as part:
            # PEFT's classes for language models want what a task class lacks; the one for encoders wants nothing.
            kind = recipe["kind"] if for_model is None else "encoder"
            base = recipe.get("base_model", recipe["backbone"])
            names = format_.write(part, method, settings, tensors, base, kind)
            files = {name: sha256(part / name) for name in names}
            own = {"for_model": for_model, "front": front, "files": files}
            text = json.dumps({**recipe, "saved": own}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
            (part / RECIPE).write_text(text, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path | str) -> Initialization:
        """Read what `save` wrote.

        Raises:
            ConfigError: there is no recipe, a file is missing, or the recipe is damaged or of a newer version.
            ChecksumError: a file is not the one that was saved.
            TensorError: the tensors are not finite, or not those of the settings.
        """
        folder = Path(folder)
        recipe = _read_recipe(folder)
        saved = recipe.pop("saved")
        for name, known in saved["files"].items():
            check_file_hash(folder / name, known)
        method, settings, front = recipe["method"], recipe["settings"], saved["front"]
        stored = detect(folder).open_tensors(folder, method, _moved(settings, front), torch.float32)
        tensors = {name.removeprefix(front): stored[name].clone() for name in stored}
        check_shapes(method, settings, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
        verdict = recipe["verdict"]
        return cls(
            Delta(METHODS.get(method).from_settings(settings), tensors, settings),
            recipe,
            None if verdict is None else _verdict(folder, verdict),
        )


def base_model_prefix(model: Any) -> str:
    """What a task class puts before the names of this model: "bert." for a BertModel, "" where it is there already.

    A language model holds its base model under that name; its task classes have the same names as itself.
    """
    name = getattr(model, "base_model_prefix", "")
    return "" if not name or hasattr(model, name) else f"{name}."


def _moved(settings: Mapping[str, Any], front: str) -> dict[str, Any]:
    """Settings with another front on every place."""
    moved = dict(settings)
    if front:
        for name in ("places", "input_places", "embeddings"):
            if moved.get(name) is not None:
                moved[name] = [f"{front}{place}" for place in moved[name]]
        for name in ("ranks", "alphas", "parts"):
            if name in moved:
                moved[name] = {f"{front}{place}": value for place, value in moved[name].items()}
    return moved


def _read_recipe(folder: Path) -> dict[str, Any]:
    path = folder / RECIPE
    if not path.is_file():
        there = sorted(os.listdir(folder))[:5] if folder.is_dir() else []
        raise ConfigError(
            f"no initialization in {folder}",
            found=", ".join(there) or None,
            hint="a folder that transfer init wrote: it holds recipe.json",
        )
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} is no recipe", found=f"it has more than {MOST_BYTES:,} bytes")
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read", found=str(error)) from None
    schema = recipe.get("schema") if isinstance(recipe, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ConfigError(f"{path} is not a recipe", found=f"schema {schema!r}")
    if schema > SCHEMA:
        raise ConfigError(
            f"{path} has schema {schema}, this version reads up to {SCHEMA}", hint="pip install -U transfer-zoo"
        )
    _check_types(path, recipe, _NEEDED)
    _check_types(path, recipe["saved"], _SAVED)
    files = recipe["saved"]["files"]
    if not files or not all(isinstance(digest, str) for digest in files.values()):
        raise ConfigError(f"{path} is damaged", found="no files with their sha256")
    for name in files:
        if name not in FILES:
            raise ConfigError(f"the recipe in {folder} names the file {name!r}", found=", ".join(FILES))
        if not os.path.lexists(folder / name):
            raise ConfigError(f"the initialization in {folder} lacks {name}", hint="run transfer init again")
    return recipe


def _check_types(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, kinds in wanted.items():
        if name not in found:
            raise ConfigError(f"{path} is damaged", found=f"it lacks {name}")
        if not isinstance(found[name], kinds):
            raise ConfigError(f"{path} is damaged", found=f"{name} is a {type(found[name]).__name__}")


def _verdict(folder: Path, told: Mapping[str, Any]) -> Verdict:
    """What a recipe says; fields that only a newer version knows are passed over."""
    known = {name: value for name, value in told.items() if name in Verdict.__dataclass_fields__}
    try:
        return Verdict.from_dict(known)
    except (TypeError, LookupError) as error:
        raise ConfigError(f"the verdict in {folder / RECIPE} is damaged", found=str(error)) from None


_NEEDED: Mapping[str, Any] = {
    "saved": dict,
    "target": dict,
    "method": str,
    "settings": dict,
    "backbone": str,
    "fingerprint": str,
    "kind": str,
    "base_model_prefix": str,
    "modules": list,
    "weights": dict,
    "scores": dict,
    "estimator": str,
    "handed_over": str,
    "verdict": (dict, type(None)),
}
_SAVED: Mapping[str, Any] = {"files": dict, "front": str}
