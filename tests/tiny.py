"""Tiny randomly initialised models of each architecture with a tokenizer, made on the spot."""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

ENCODERS = ("bert", "roberta", "deberta-v2")
SEQ2SEQ = ("t5", "bart")
CAUSAL = ("gpt2", "llama", "qwen2")
ARCHITECTURES = (*ENCODERS, *SEQ2SEQ, *CAUSAL)
VISION = ("vit",)  # reads no text, so it is no backbone, but takes deltas

_TEXT = [
    "text: a warm and funny film that never drags",
    "text: the plot is thin and the jokes are tired",
    "question: is the harbour open in winter context: The harbour of Tellin is open from April to October.",
    "premise: A man plays a guitar. hypothesis: Someone makes music.",
    "negative positive yes no entailment neutral contradiction answer",
]


@functools.cache
def tiny_tokenizer(special: str = "both") -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens. special: "both" (CLS ... SEP), "end" (T5: ... EOS), or "none"."""
    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    # <pad> is 1 and <s> 0, as in RoBERTa and BART, whose position ids start after the padding id.
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    raw.train_from_iterator(_TEXT, trainer)
    if special == "both":
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    elif special == "end":
        raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokens: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if special == "both":
        tokens |= {"cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **tokens)


def tokenizer_for(arch: str) -> PreTrainedTokenizerFast:
    """The tokenizer with the special tokens that such a model expects."""
    return tiny_tokenizer("end" if arch == "t5" else "none" if arch in CAUSAL else "both")


def tiny_model(arch: str, seed: int = 0) -> Any:
    """Two layers, width 32, four heads; in evaluation mode; the same weights for the same seed."""
    size = len(tiny_tokenizer())
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    common = dict(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **ids)
    wide = dict(common, intermediate_size=64, max_position_embeddings=160)
    decoder = dict(wide, num_key_value_heads=2)
    makers: dict[str, Any] = {
        "bert": lambda: BertModel(BertConfig(**wide)),
        "roberta": lambda: RobertaModel(RobertaConfig(**{**wide, "max_position_embeddings": 162})),
        "deberta-v2": lambda: DebertaV2Model(
            DebertaV2Config(**wide, relative_attention=True, position_buckets=16, pos_att_type=["p2c", "c2p"])
        ),
        "t5": lambda: T5ForConditionalGeneration(
            T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=1,
                pad_token_id=1,
                eos_token_id=2,
            )
        ),
        "bart": lambda: BartForConditionalGeneration(
            BartConfig(
                vocab_size=size,
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=160,
                decoder_start_token_id=2,
                forced_eos_token_id=None,
                **ids,
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=160, bos_token_id=0, eos_token_id=2)
        ),
        "vit": lambda: ViTModel(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                image_size=16,
                patch_size=8,
            ),
            add_pooling_layer=False,
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**decoder)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**decoder)),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = makers[arch]().eval()
    # A larger spread than at initialisation: answers of a tiny model should differ clearly between inputs.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return model


def tiny_backbone(arch: str, seed: int = 0, max_length: int = 64) -> Any:
    """A `Backbone` around `tiny_model(arch)`."""
    from transfer.backbones import wrap_model

    return wrap_model(tiny_model(arch, seed), tokenizer_for(arch), name=f"tiny-{arch}", max_length=max_length)


def random_delta(method: Any, model: Any, seed: int = 0) -> Any:
    """A `Delta` with clearly other values than its start, as training would give; `method` may be a name."""
    from transfer.deltas import METHODS, Delta

    method = METHODS.get(method)() if isinstance(method, str) else method
    generator = torch.Generator().manual_seed(seed)
    start = method.draw(model)
    return Delta(method, {name: torch.randn(t.shape, generator=generator) * 0.3 for name, t in start.items()})


def sentiment_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Easy labelled examples: the word decides."""
    generator = torch.Generator().manual_seed(seed)
    things = ["film", "kettle", "hotel", "train", "book", "garden", "phone", "coat"]
    good, bad = ["warm", "funny", "bright", "solid"], ["thin", "tired", "cold", "broken"]
    rows = []
    for index in range(n):
        label = index % 2
        word = (bad, good)[label][int(torch.randint(4, (1,), generator=generator))]
        thing = things[int(torch.randint(8, (1,), generator=generator))]
        rows.append(
            {"input": f"text: the {thing} {index} is {word}", "choices": ["negative", "positive"], "label": label}
        )
    return rows
