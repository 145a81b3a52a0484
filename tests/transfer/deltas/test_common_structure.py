from __future__ import annotations

import pytest
import tiny
import torch

from transfer.deltas import LoRA, structure
from transfer.deltas.common_structure import head_sizes

BERT = "encoder.layer.0.attention"
LLAMA = "model.layers.0.self_attn"
T5 = "encoder.block.0.layer.0.SelfAttention"
BART = "model.encoder.layers.0.self_attn"
GPT2 = "transformer.h.0.attn"

# attention, query, value, output projection, end of ff.w2: in the first block, as the models' own files name them
FIRST = {
    "bert": (f"{BERT}.self", "query", "value", f"{BERT}.output.dense", "output.dense"),
    "roberta": (f"{BERT}.self", "query", "value", f"{BERT}.output.dense", "output.dense"),
    "deberta-v2": (f"{BERT}.self", "query_proj", "value_proj", f"{BERT}.output.dense", "output.dense"),
    "t5": (T5, "q", "v", f"{T5}.o", "layer.1.DenseReluDense.wo"),
    "bart": (BART, "q_proj", "v_proj", f"{BART}.out_proj", "fc2"),
    "gpt2": (GPT2, "c_attn", "c_attn", f"{GPT2}.c_proj", "mlp.c_proj"),
    "llama": (LLAMA, "q_proj", "v_proj", f"{LLAMA}.o_proj", "mlp.down_proj"),
    "qwen2": (LLAMA, "q_proj", "v_proj", f"{LLAMA}.o_proj", "mlp.down_proj"),
}
PARTS = ("attn", "attn.q", "attn.k", "attn.v", "attn.proj", "ff.w2")


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_the_common_parts_are_found(arch, tiny_model):
    found = structure(tiny_model(arch))
    attention, query, value, projection, feed_forward = FIRST[arch]
    assert found["attn"][0] == attention
    assert found["attn.q"][0] == f"{attention}.{query}"
    assert found["attn.v"][0] == f"{attention}.{value}"
    assert found["attn.proj"][0] == projection
    assert found["ff.w2"][0].endswith(f".{feed_forward}")
    blocks = 4 if arch in tiny.SEQ2SEQ else 2
    assert [len(found[name]) for name in PARTS] == [blocks] * len(PARTS)
    assert ("crossattn" in found) == (arch in tiny.SEQ2SEQ)


def test_cross_attention_has_names_of_its_own(tiny_model):
    found = structure(tiny_model("t5"))
    assert found["crossattn.q"] == [f"decoder.block.{block}.layer.1.EncDecAttention.q" for block in (0, 1)]
    assert not set(found["crossattn.q"]) & set(found["attn.q"])


def test_deltas_are_no_part_of_the_structure(tiny_model):
    model = tiny_model("bert")
    before = structure(model)
    LoRA().attach(model)
    assert structure(model) == before


def test_a_model_without_attention_has_no_common_parts():
    assert structure(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())) == {}


@pytest.mark.parametrize(("arch", "sizes"), [("bert", (4, 8)), ("t5", (4, 8)), ("gpt2", (4, 8)), ("llama", (2, 8))])
def test_head_sizes_are_those_of_keys_and_values(arch, sizes, tiny_model):
    model = tiny_model(arch)
    assert head_sizes(model.get_submodule(structure(model)["attn"][0])) == sizes
