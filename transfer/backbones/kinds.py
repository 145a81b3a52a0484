"""What kind of backbone a model can be."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from transfer.errors import BackboneError


def kind_of(config: Any, name: str) -> str:
    """The kind of backbone that a configuration describes.

    Raises:
        BackboneError: it cannot be told.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    heads = tuple(getattr(config, "architectures", None) or ())
    if any(head.endswith(("ForCausalLM", "LMHeadModel")) for head in heads) or getattr(config, "is_decoder", False):
        return "causal"
    kind = config.model_type
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "causal"
    if kind in MODEL_MAPPING_NAMES:
        return "encoder"
    raise BackboneError(
        f"cannot tell what kind of backbone {name!r} is (model type {kind!r})",
        hint="--kind encoder, seq2seq or causal",
    )


def check_kind(model: torch.nn.Module, kind: str, name: str) -> None:
    """Refuse a model that does not read as this kind of backbone does.

    Raises:
        BackboneError: it has a decoder where none is asked, or none, or its tokens see those that come later.
    """
    config: Any = model.config
    both = "decoder_input_ids" in inspect.signature(model.forward).parameters
    if kind == "seq2seq" and not (both or getattr(config, "is_encoder_decoder", False)):
        why, hint = "it has no encoder beside a decoder", "kind='auto', or causal"
    elif kind != "seq2seq" and both:
        why, hint = "it has an encoder and a decoder", "kind='seq2seq'"
    elif kind == "causal" and _reads_both_ways(config):
        why = "its tokens see those that come after them, so an answer would be read before it is given"
        hint = "kind='encoder', or a model that was trained with is_decoder=True"
    else:
        return
    raise BackboneError(f"{name!r} is a {type(model).__name__}, no {kind} model", found=why, hint=hint)


def _reads_both_ways(config: Any) -> bool:
    """Whether it is an architecture of masked language models, not set to read from left to right."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    turned = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
    return getattr(config, "model_type", None) in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not turned
