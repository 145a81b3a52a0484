"""Tiny models whose weights are the same in every version of every library: drawn by name, by numpy."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MBartConfig,
    MBartForConditionalGeneration,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

IDS = torch.tensor([[0, 5, 9, 7, 2], [3, 11, 4, 2, 1]])
MASK = (IDS != 1).long()
_ENCODER = {
    "vocab_size": 24,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
}
_SEQ2SEQ = {"vocab_size": 24, "d_model": 8, "pad_token_id": 1, "decoder_start_token_id": 1}


def _bart(config: Any = BartConfig, model: Any = BartForConditionalGeneration) -> Any:
    layers = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    wide = {"encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 20}
    return model(config(**_SEQ2SEQ, **layers, **wide, bos_token_id=0, eos_token_id=2))


MODELS: dict[str, Any] = {
    "bert": lambda: BertModel(BertConfig(**_ENCODER)),
    "bert-classifier": lambda: BertForSequenceClassification(BertConfig(**_ENCODER)),
    "roberta": lambda: RobertaModel(RobertaConfig(**_ENCODER)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=24, dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=20, pad_token_id=1
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=8, n_layer=2, n_head=2, n_positions=20)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**{**_ENCODER, "num_key_value_heads": 2, "pad_token_id": None})  # Llama has no padding of its own
    ),
    "t5": lambda: T5ForConditionalGeneration(T5Config(**_SEQ2SEQ, d_kv=4, d_ff=12, num_layers=2, num_heads=2)),
    "bart": _bart,
    "mbart": lambda: _bart(MBartConfig, MBartForConditionalGeneration),
    "deberta-v2": lambda: DebertaV2Model(DebertaV2Config(**_ENCODER, pos_att_type=["p2c", "c2p"])),
}


def arch_of(case: str) -> str:
    """The architecture that the name of a case begins with."""
    return max((arch for arch in MODELS if case.startswith(arch)), key=len)


def build(arch: str) -> Any:
    """A model of two layers, width 8, two heads, in evaluation mode."""
    model = MODELS[arch]().eval()
    fill(model)
    return model


@torch.no_grad()
def fill(model: nn.Module, only: Any = None, front: str = "") -> None:
    """Give parameters values by their names; `only` says which, `front` is taken off the names first."""
    for name, value in model.named_parameters():
        if value.is_floating_point() and (only is None or only(name)):
            value.copy_(drawn(name.removeprefix(front), tuple(value.shape)))


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values for a parameter of that name; those of normalisations are near 1."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    values = random.standard_normal(shape) * 0.3
    is_norm = name.endswith("weight") and len(shape) == 1
    return torch.from_numpy(values + 1 if is_norm else values).float()


@torch.no_grad()
def outputs(model: Any) -> torch.Tensor:
    """Last hidden states or logits of the real tokens of two short texts."""
    given = {"input_ids": IDS, "attention_mask": MASK}
    if getattr(model.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = IDS
    found = model(**given)
    states = found.last_hidden_state if "last_hidden_state" in found else found.logits
    return states[MASK.bool()] if states.dim() == 3 else states
