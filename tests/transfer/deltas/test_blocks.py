from __future__ import annotations

import pytest

from transfer.deltas import LoRA, block_indices, block_of, n_blocks
from transfer.errors import DeltaError


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("encoder.layer.4.attention.self.query.lora_A", 4),
        ("decoder.block.3.layer.1.EncDecAttention.q", 3),
        ("h.11.attn.c_attn", 11),
        ("embeddings.word_embeddings", None),
    ],
)
def test_the_first_number_is_the_block(name, block):
    assert block_of(name) == block


def test_decoder_blocks_come_after_those_of_the_encoder(tiny_model):
    names = list(LoRA().shapes(tiny_model("t5")))
    found = block_indices(names)
    assert n_blocks(names) == 4
    assert {found[name] for name in names if name.startswith("encoder")} == {0, 1}
    assert {found[name] for name in names if name.startswith("decoder")} == {2, 3}


def test_names_outside_blocks_count_for_nothing():
    assert n_blocks(["shared", "lm_head"]) == 0
    with pytest.raises(DeltaError, match="no tensor names"):
        n_blocks([])
