"""A model without its weights: built from its configuration on the `meta` device, so that any size is there at once."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from transfer.backbones.kinds import kind_of
from transfer.backbones.loading import KINDS, UNREADABLE, folder_behind
from transfer.errors import BackboneError, ConfigError


def load_outline(name: str | os.PathLike[str] = "embedded", kind: str = "auto") -> nn.Module:
    """The modules of a model with the shapes of their parameters, and no values. Frozen, as a backbone is.

    Args:
        name: "embedded", a folder or a Hub id. Only `config.json` is read: a folder needs no weights.
        kind: Which class: encoder, seq2seq or causal; "auto" is what `load_backbone` would take, and for models
            that are no text models the one that transformers takes for their configuration.
    Raises:
        BackboneError: no configuration there, out of reach, or transformers has no such model.
        UnknownNameError: no such kind.
    """
    if kind != "auto":
        KINDS.resolve(kind)
    name = os.fspath(name)
    folder = folder_behind(name)
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder) if folder is not None else name, trust_remote_code=False)
    except UNREADABLE as error:
        raise BackboneError(
            f"cannot read the configuration of {name!r}",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0][:300],
            hint="a folder with config.json, a Hub id, or embedded",
        ) from error
    return build_outline(config, name, kind)


def build_outline(config: Any, name: str, kind: str = "auto") -> nn.Module:
    """The same from a configuration in memory.

    Raises:
        BackboneError: there is no class for it.
        ConfigError: it is no model of that kind.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    classes = {"encoder": AutoModel, "seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM}
    found = kind_of(config, name) if kind == "auto" else kind
    chosen = classes[found]
    if type(config) not in chosen._model_mapping:
        if kind != "auto":
            raise ConfigError(f"{name!r} is no {kind} model", found=f"model type {config.model_type!r}")
        chosen = AutoModel
    if type(config) not in chosen._model_mapping:
        raise BackboneError(f"transformers has no model for {name!r}", found=f"model type {config.model_type!r}")
    try:
        with torch.device("meta"):
            model: nn.Module = chosen.from_config(config)
    except (RuntimeError, NotImplementedError, ValueError, ImportError) as error:
        # Some constructors ask for values while they build, some for packages that are not there.
        raise BackboneError(
            f"cannot build {name!r} without its weights",
            found=(str(error).strip().splitlines() or [type(error).__name__])[0][:300],
            hint="in Python, print(structure(model)) shows a model that is loaded",
        ) from error
    return model.requires_grad_(False).eval()
