"""One small model of every architecture whose common structure is promised, and inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
TEXT = {**SIZES, **IDS, "vocab_size": 64, "max_position_embeddings": 40}
DECODER = {**TEXT, "num_key_value_heads": 1}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}
T5 = {
    "vocab_size": 64,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 1,
}
HALVES = {
    f"{half}_{name}": n
    for half in ("encoder", "decoder")
    for name, n in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))
}
BART = {**HALVES, **IDS, "vocab_size": 64, "d_model": 16, "max_position_embeddings": 40, "decoder_start_token_id": 2}

MAKERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: t.BertModel(t.BertConfig(**TEXT)),
    "roberta": lambda: t.RobertaForMaskedLM(t.RobertaConfig(**TEXT)),
    "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**TEXT)),
    "deberta": lambda: t.DebertaModel(t.DebertaConfig(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "deberta-v2": lambda: t.DebertaV2Model(
        t.DebertaV2Config(**TEXT, relative_attention=True, position_buckets=16, pos_att_type=["p2c", "c2p"])
    ),
    "distilbert": lambda: t.DistilBertForMaskedLM(
        t.DistilBertConfig(vocab_size=64, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=40)
    ),
    "albert": lambda: t.AlbertForMaskedLM(t.AlbertConfig(**TEXT, embedding_size=8)),
    "albert-groups": lambda: t.AlbertModel(
        t.AlbertConfig(**TEXT | {"num_hidden_layers": 4}, embedding_size=8, num_hidden_groups=2, inner_group_num=2)
    ),
    "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**TEXT)),
    "electra": lambda: t.ElectraForPreTraining(t.ElectraConfig(**TEXT, embedding_size=8)),
    "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**TEXT, cls_token_id=0, sep_token_id=2)),
    "t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5)),
    "flan-t5": lambda: t.T5ForConditionalGeneration(t.T5Config(**T5, feed_forward_proj="gated-gelu")),
    "longt5": lambda: t.LongT5ForConditionalGeneration(t.LongT5Config(**T5, local_radius=3)),
    "longt5-global": lambda: t.LongT5Model(
        t.LongT5Config(**T5, local_radius=3, global_block_size=4, encoder_attention_type="transient-global")
    ),
    "bart": lambda: t.BartForConditionalGeneration(t.BartConfig(**BART, forced_eos_token_id=None)),
    "mbart": lambda: t.MBartForConditionalGeneration(t.MBartConfig(**BART, forced_eos_token_id=None)),
    "bigbird-pegasus": lambda: t.BigBirdPegasusForConditionalGeneration(
        t.BigBirdPegasusConfig(**BART, attention_type="original_full")
    ),
    "xlm": lambda: t.XLMModel(t.XLMConfig(vocab_size=64, emb_dim=16, n_layers=2, n_heads=2)),
    "openai-gpt": lambda: t.OpenAIGPTLMHeadModel(
        t.OpenAIGPTConfig(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=40)
    ),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=2)
    ),
    "gpt-neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**TEXT)),
    "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2, **IDS)),
    "mpt": lambda: t.MptForCausalLM(
        t.MptConfig(vocab_size=64, d_model=16, n_layers=2, n_heads=2, max_seq_len=40, expansion_ratio=2)
    ),
    "persimmon": lambda: t.PersimmonForCausalLM(t.PersimmonConfig(**TEXT)),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(**{k: v for k, v in TEXT.items() if k != "intermediate_size"}, ffn_dim=24, word_embed_proj_dim=8)
    ),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**DECODER)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**DECODER)),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**DECODER, num_local_experts=2)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**DECODER)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**DECODER, head_dim=8)),
    "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**DECODER, head_dim=8)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**DECODER, head_dim=8)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**DECODER)),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**VISION)),
    "clip": lambda: t.CLIPModel(
        t.CLIPConfig(text_config={**TEXT, "eos_token_id": 2}, vision_config=VISION, projection_dim=8)
    ),
    "whisper": lambda: t.WhisperForConditionalGeneration(
        t.WhisperConfig(
            **{k: v for k, v in BART.items() if k != "max_position_embeddings"},
            num_mel_bins=8,
            max_source_positions=6,
            max_target_positions=20,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    ),
}


def build(arch: str, seed: int = 0) -> Any:
    """The model in evaluation mode, with weights far enough from zero that its parts matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MAKERS[arch]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def run(arch: str, model: Any) -> torch.Tensor:
    """Everything a model says to a small batch, in one vector."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, 60, (2, 9), generator=generator)
    image = torch.rand((2, 3, 16, 16), generator=generator)
    inputs: dict[str, torch.Tensor] = {"input_ids": ids}
    if arch == "vit":
        inputs = {"pixel_values": image}
    elif arch == "clip":
        inputs["pixel_values"] = image
    elif arch == "whisper":
        inputs = {"input_features": torch.rand((2, 8, 12), generator=generator)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :5]
    output = model(**inputs)
    return torch.cat([value.flatten() for value in output.values() if isinstance(value, torch.Tensor)])
