"""Where the `adapters` package puts what, by the names of its models and of ours.

It keeps a bottleneck in a module of its own beside the layers (`output_adapters`), or in one that is there in any case
(`attention.output`); a LoRA lies on the layer itself, under its name. Names as adapters 1.3 has them
(github.com/adapter-hub/adapters, `src/adapters/models`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Reads = Literal["output", "sum"]
MATRICES = ("q", "k", "v")


@dataclass(frozen=True)
class Spot:
    """One place in a block for a bottleneck; all names are relative to the block.

    Args:
        theirs: What holds it in their model.
        flag: The setting that turns it on.
        output: Our place if it reads what a layer gives, before the residual is added.
        sum: Our place if it reads the sum with the residual: the normalisation behind the sum, the module that gives
            the sum, "" for the block itself, None if no module gives it.
        stack: "encoder" or "decoder" if it is in that one alone.
    """

    theirs: str
    flag: Literal["mh_adapter", "cross_adapter", "output_adapter"]
    output: str
    sum: str | None
    stack: str = ""

    def ours(self, reads: Reads) -> str | None:
        """Our place, relative to the block."""
        return self.output if reads == "output" else self.sum


@dataclass(frozen=True)
class Family:
    """Models that name their parts alike.

    Args:
        types: `model_type` of their configs.
        block: Pattern for the names of blocks.
        spots: For bottlenecks.
        lora: "q", "k", "v", "intermediate" or "output" -> ends of our places.
        fused: End of the one layer that holds query, key and value.
    """

    types: tuple[str, ...]
    block: str
    spots: tuple[Spot, ...]
    lora: Mapping[str, tuple[str, ...]] = field(hash=False)
    fused: str | None = None

    def split(self, name: str, ends: Iterable[str]) -> tuple[str, str] | None:
        """(block, end) of a name that is a block of this family and one of the ends; None for any other."""
        for end in ends:
            block = name.removesuffix(f".{end}") if end else name
            if (not end or block != name) and re.fullmatch(rf"(?:.+\.)?{self.block}", block):
                return block, end
        return None

    def spot(self, name: str, reads: Reads | None = None) -> tuple[str, Spot] | None:
        """(block, spot) of a name: of theirs, or of ours for what is read there."""
        for spot in self.spots:
            end = spot.theirs if reads is None else spot.ours(reads)
            found = None if end is None else self.split(name, [end])
            if found and spot.stack in [*found[0].split("."), ""]:
                return found[0], spot
        return None

    def matrix(self, place: str) -> str | None:
        """What a place of a LoRA is: a key of `lora`, "fused", or None."""
        if self.fused and self.split(place, [self.fused]):
            return "fused"
        return next((key for key, ends in self.lora.items() if self.split(place, ends)), None)


def _attention(*names: str, parts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(f"{name}.{part}" for name in names) for key, part in zip(MATRICES, parts, strict=True)}


_BERT = (
    Spot("attention.output", "mh_adapter", "attention.output.dense", "attention.output.LayerNorm"),
    Spot("output", "output_adapter", "output.dense", "output.LayerNorm"),
)
_BERT_FF = {"intermediate": ("intermediate.dense",), "output": ("output.dense",)}
_BART_LORA = {
    **_attention("self_attn", "encoder_attn", parts=("q_proj", "k_proj", "v_proj")),
    "intermediate": ("fc1",),
    "output": ("fc2",),
}

FAMILIES = (
    Family(
        types=("bert", "roberta", "xlm-roberta", "electra"),
        block=r"encoder\.layer\.\d+",
        spots=_BERT,
        lora={**_attention("attention.self", parts=("query", "key", "value")), **_BERT_FF},
    ),
    Family(
        types=("deberta-v2",),
        block=r"encoder\.layer\.\d+",
        spots=_BERT,
        lora={**_attention("attention.self", parts=("query_proj", "key_proj", "value_proj")), **_BERT_FF},
    ),
    Family(
        types=("distilbert",),
        block=r"(?:transformer\.)?layer\.\d+",
        spots=(
            Spot("attention_adapters", "mh_adapter", "attention.out_lin", "sa_layer_norm"),
            Spot("output_adapters", "output_adapter", "ffn.lin2", "output_layer_norm"),
        ),
        lora={
            **_attention("attention", parts=("q_lin", "k_lin", "v_lin")),
            "intermediate": ("ffn.lin1",),
            "output": ("ffn.lin2",),
        },
    ),
    Family(  # its normalisations stand behind the sums
        types=("bart", "plbart"),
        block=r"(?:encoder|decoder)\.layers\.\d+",
        spots=(
            Spot("attention_adapters", "mh_adapter", "self_attn.out_proj", "self_attn_layer_norm"),
            Spot("cross_attention_adapters", "cross_adapter", "encoder_attn.out_proj", "encoder_attn_layer_norm"),
            Spot("output_adapters", "output_adapter", "fc2", "final_layer_norm"),
        ),
        lora=_BART_LORA,
    ),
    Family(  # the same names, and the normalisations stand before the sub-layers
        types=("mbart",),
        block=r"(?:encoder|decoder)\.layers\.\d+",
        spots=(
            Spot("attention_adapters", "mh_adapter", "self_attn.out_proj", None),
            Spot("cross_attention_adapters", "cross_adapter", "encoder_attn.out_proj", None),
            Spot("output_adapters", "output_adapter", "fc2", ""),
        ),
        lora=_BART_LORA,
    ),
    Family(
        types=("gpt2",),
        block=r"h\.\d+",
        spots=(
            Spot("attention_adapters", "mh_adapter", "attn.c_proj", None),
            Spot("output_adapters", "output_adapter", "mlp.c_proj", ""),
        ),
        lora={"intermediate": ("mlp.c_fc",), "output": ("mlp.c_proj",)},
        fused="attn.c_attn",
    ),
    Family(
        types=("llama", "mistral"),
        block=r"(?:model\.)?layers\.\d+",
        spots=(
            Spot("attention_adapters", "mh_adapter", "self_attn.o_proj", None),
            Spot("output_adapters", "output_adapter", "mlp.down_proj", ""),
        ),
        lora={
            **_attention("self_attn", parts=("q_proj", "k_proj", "v_proj")),
            "intermediate": ("mlp.down_proj",),  # the package has these two the other way round
            "output": ("mlp.up_proj",),
        },
    ),
    Family(
        types=("t5", "mt5"),
        block=r"(?:encoder|decoder)\.block\.\d+",
        spots=(
            Spot("layer.0", "mh_adapter", "layer.0.SelfAttention.o", "layer.0"),
            Spot("layer.1", "output_adapter", "layer.1.DenseReluDense.wo", "layer.1", "encoder"),
            Spot("layer.1", "cross_adapter", "layer.1.EncDecAttention.o", "layer.1", "decoder"),
            Spot("layer.2", "output_adapter", "layer.2.DenseReluDense.wo", "layer.2", "decoder"),
        ),
        lora={
            **_attention("layer.0.SelfAttention", "layer.1.EncDecAttention", parts=MATRICES),
            "intermediate": tuple(f"layer.{n}.DenseReluDense.{w}" for n in (1, 2) for w in ("wi", "wi_1")),
            "output": tuple(f"layer.{n}.DenseReluDense.wo" for n in (1, 2)),
        },
    ),
)
TYPES = tuple(name for family in FAMILIES for name in family.types)


def family_of(model_type: object) -> Family | None:
    """The family of a `model_type`; None if it is not known here."""
    return next((family for family in FAMILIES if model_type in family.types), None)
