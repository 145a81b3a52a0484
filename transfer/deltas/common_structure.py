"""Common structure: one set of names for the parts that models of many architectures share.

Found by rules over the modules, not by a tree written for each model: an attention module is one that has a
query, a key and a value projection (or the three fused in one) as children; its output projection is a child of
its own or sits in the neighbouring `output`; what is linear in the same block and outside any attention is the
feed-forward part, whose last layer is `ff.w2`. What the rules miss is described, by the user or in `exceptions.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

from transfer.deltas.attention import CROSS, head_sizes, is_attention, projections
from transfer.deltas.described import description_of, resolve
from transfer.deltas.dotted import fronts, shared_parts
from transfer.deltas.feed_forward import feed_forward
from transfer.deltas.modules import features, named_modules
from transfer.deltas.norms import norms_of_block
from transfer.deltas.stacks import find_stacks
from transfer.deltas.structured import Structure
from transfer.deltas.tree import plan, tree_of

if TYPE_CHECKING:
    from transfer.deltas.method import DeltaMethod

__all__ = ["Common", "common_names", "head_sizes", "is_attention", "structure"]

TOKENS = ("word_embeddings", "embed_tokens", "wte", "embed_in", "tok_embeddings", "token_embedding", "token_embeddings")
SHARED_TOKENS = ("shared",)  # beside `embed_tokens` it only lends its weight, and is never called
PATCHES = ("patch_embeddings.projection", "patch_embedding", "patch_embed.proj")
HEAD = ("lm_head", "proj_out", "embed_out", "classifier", "score", "qa_outputs", "discriminator_predictions")
ATTENTION = ("", ".q", ".k", ".v", ".proj", ".norm")
ORDER = (
    "embeddings",
    "block",
    *(f"attn{part}" for part in ATTENTION),
    *(f"crossattn{part}" for part in ATTENTION),
    *("ff.w1", "ff.w2", "ff.w3", "ff.norm"),
    "head",
)


@dataclass(frozen=True)
class Common:
    """A module under its common name.

    Args:
        part: `attn.q`, `ff.w2`, `embeddings`; `block` for the block itself.
        place: Name of the module in the model.
        stack: `encoder` or `decoder`, with a word in front where there are several (`vision.encoder`); "" if unknown.
        block: Number of the block in its stack; None outside of blocks.
    """

    part: str
    place: str
    stack: str = ""
    block: int | None = None

    @property
    def full(self) -> str:
        """The whole name: `encoder.block.0.attn.q`, `decoder.embeddings`, `encoder.block.0`."""
        number = [] if self.block is None else ["block", str(self.block)]
        return ".".join([*filter(None, [self.stack]), *number, *([] if self.part == "block" else [self.part])])

    @property
    def across(self) -> str:
        """The name for all blocks of the stack: `encoder.attn.q`."""
        return f"{self.stack}.{self.part}" if self.stack else self.part


def structure(model: nn.Module, delta: DeltaMethod | None = None) -> Structure:
    """Find the places that models have in common. Printed, or in a notebook, it is the tree of the model.

    Args:
        model: Any model, or a `Backbone` (then its inner model); names are relative to it.
        delta: A method that the tree shows as if it were attached.
    Returns:
        Common name -> names of modules, in model order. Keys that may be there: `embeddings` (of tokens or patches),
        `block`, `attn` (the self-attention module, holding query, key and value), `attn.q`, `attn.k`, `attn.v`,
        `attn.proj` (output projection; `where=` knows it as `attn.o` too), `attn.norm`, the same six under `crossattn`,
        `ff.w1` (first layer of the feed-forward part; of a gated one the layer behind which the activation stands),
        `ff.w3` (of a gated one: what its output is multiplied with), `ff.w2` (last layer), `ff.norm`, and `head`.
        Where one fused layer computes several of them, all name that layer. A part that is not found has no key.
    Raises:
        DeltaError: the model has no place for `delta`, or one that cannot take it.
    """
    common = common_names(model)
    return Structure(by_part(common), tree_of(model, common, None if delta is None else plan(delta, model)))


def spellings(common: Common) -> list[str]:
    """The names that mean a part: with its block, across blocks, and both with `o` for `proj`."""
    names = [common.full, common.across]
    return [*names, *(f"{name.removesuffix('.proj')}.o" for name in names if name.endswith(".proj"))]


def by_part(common: Iterable[Common]) -> dict[str, list[str]]:
    """Common name without stack and block -> places, each once, in the order given; keys in the order of a block."""
    found: dict[str, dict[str, None]] = {}
    for name in common:
        found.setdefault(name.part, {})[name.place] = None
    rank = {part: position for position, part in enumerate(ORDER)}
    return {part: list(found[part]) for part in sorted(found, key=lambda part: rank.get(part, len(rank)))}


def common_names(model: nn.Module) -> list[Common]:
    """Every module that has a common name, in model order; a fused layer has several. Nothing is run.

    Raises:
        DeltaError: a description names a module that is not there.
    """
    modules = named_modules(model)
    found = list(_by_rules(modules))
    for name, module in modules.items():
        if description_of(module):
            found = _with_description(found, name, modules)
    order = {name: position for position, name in enumerate(modules)}
    return sorted(found, key=lambda common: (order[common.place], common.part not in ORDER or ORDER.index(common.part)))


def _with_description(found: list[Common], name: str, modules: dict[str, nn.Module]) -> list[Common]:
    """What was found, with what is said of the module called `name` in place of what the rules say of its inside."""
    start = f"{name}." if name else ""
    parts, described = resolve(modules[name], [m.removeprefix(start) for m in modules if m.startswith(start) and m])
    new = {Common(said.part, start + said.place, said.stack, said.number) for said in described}
    if "block" not in parts:
        new |= {Common("block", start + said.block, said.stack, said.number) for said in described if said.block}
    # The rules keep the names of other parts at other places.
    taken = {common.place for common in new if common.part != "block"}
    kept = [c for c in found if c.place not in taken and (c.part not in parts or not f"{c.place}.".startswith(start))]
    blocks = {c.place: c for c in kept if c.part == "block"}
    for common in list(new):
        around = next((front for front in fronts(common.place) if front in blocks), None)
        if common.block is None and around:  # a part of a block that the rules know
            new.remove(common)
            new.add(replace(common, stack=common.stack or blocks[around].stack, block=blocks[around].block))
    return [*kept, *new]


def _by_rules(modules: dict[str, nn.Module]) -> Iterator[Common]:
    attentions = [name for name, module in modules.items() if is_attention(module)]
    layers = {name: projections(name, modules) for name in attentions}
    inside = {place for parts in layers.values() for place in parts.values()}
    held = set(attentions)
    layered = [name for name, module in modules.items() if features(module) is not None]
    held |= set(layered)  # what is inside a layer, as PEFT's are in a layer that it has wrapped, is no part of its own
    linear = [name for name in layered if name not in inside and held.isdisjoint(fronts(name))]
    block_of = _blocks(attentions, linear)
    blocks = {block: [name for name in attentions if block_of[name] == block] for block in block_of.values()}
    causal = {block: _is_causal(names[0], modules) for block, names in blocks.items() if block}
    stacks = find_stacks(causal)
    for block, names in blocks.items():
        where = stacks.get(block, ("", None))
        if block:
            yield Common("block", block, *where)
        parts = {(part, place) for name in names for part, place in _attention(name, block, layers[name])}
        within = {n: m for n, m in modules.items() if block and n.startswith(f"{block}.")}
        parts |= feed_forward([name for name in linear if name in within], modules, layers[names[0]].get("proj"))
        sublayers = {
            kind: [place for part, place in parts if part.partition(".")[0] == kind]
            for kind in ("attn", "crossattn", "ff")
        }
        # Experts hold no linear layers of their own, and the norm before them is theirs all the same.
        held_by = {kind: places for kind, places in sublayers.items() if places or kind == "ff"}
        for kind, norms in norms_of_block(block, within, held_by).items():
            parts |= {(f"{kind}.norm", norm) for norm in norms}
        yield from (Common(part, place, *where) for part, place in sorted(parts, key=lambda p: ORDER.index(p[0])))
    yield from _embeddings(modules, list(blocks), stacks)
    yield from _heads(modules, linear, list(blocks))


def _is_causal(attention: str, modules: dict[str, nn.Module]) -> bool | None:
    """Whether an attention sees what comes before alone: by its own word, else by what the model is known for."""
    own = getattr(modules[attention], "is_causal", None)
    if isinstance(own, bool):
        return own
    configs = (getattr(modules[name], "config", None) for name in (attention, *fronts(attention), ""))
    kinds = (getattr(config, "model_type", None) for config in configs)
    kind = next((kind for kind in kinds if isinstance(kind, str)), None)
    if kind is None:
        return None
    from transformers.models.auto.modeling_auto import (  # there already, since the config is
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _attention(name: str, block: str, layers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    kind = "crossattn" if CROSS.search(name.removeprefix(block)) else "attn"
    yield kind, name
    for part, place in layers.items():
        yield f"{kind}.{part}", place


def _blocks(attentions: list[str], linear: list[str]) -> dict[str, str]:
    """Attention -> its block, "" outside of blocks: the nearest item of a list that holds a feed-forward part too."""
    holds_linear = {above for name in linear for above in fronts(name)}
    found = {}
    for name in attentions:
        items = [above for above in (name, *fronts(name)) if above.rpartition(".")[2].isdecimal()]
        found[name] = next((item for item in items if item in holds_linear), items[0] if items else "")
    return found


def _embeddings(
    modules: dict[str, nn.Module], blocks: list[str], stacks: Mapping[str, tuple[str, int]]
) -> Iterator[Common]:
    def called(*names: str) -> list[str]:
        return [n for n, m in modules.items() if n.rpartition(".")[2] in names and hasattr(m, "num_embeddings")]

    patches = [name for name in modules if any(f".{name}".endswith(f".{end}") for end in PATCHES)]
    inside = set(blocks)
    for place in [*(called(*TOKENS) or called(*SHARED_TOKENS)), *patches]:
        if inside.isdisjoint(fronts(place)):
            near = {block: shared_parts([place, block]) for block in stacks}
            owners = {stacks[block][0] for block, shared in near.items() if shared == max(near.values())}
            yield Common("embeddings", place, owners.pop() if len(owners) == 1 else "")


def _heads(modules: dict[str, nn.Module], linear: list[str], blocks: list[str]) -> Iterator[Common]:
    """What the model itself calls its output embeddings, else the last layer of what has the name of a head."""
    names = {id(module): name for name, module in modules.items()}
    for module in modules.values():
        ask = getattr(module, "get_output_embeddings", None)
        given = names.get(id(ask())) if callable(ask) else None
        if given:
            yield Common("head", given)
            return
    for name in modules:
        if name.rpartition(".")[2] in HEAD and set(blocks).isdisjoint(fronts(name)):
            layers = [layer for layer in linear if layer == name or layer.startswith(f"{name}.")]
            if layers:
                yield Common("head", layers[-1])
