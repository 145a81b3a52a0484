"""Deltas: what a method trains on top of a frozen backbone, attached by name, without touching the model's code.

attached = LoRA(rank=8).attach(model)      # the backbone is frozen, `attached` trains
tensors = attached.state_dict()            # canonical names -> tensors
attached.detach()                          # outputs are bit-identical to those before
Delta(LoRA(rank=8), tensors).attach(model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer.registry import Registry
from zoo.lazy import lazy_names

if TYPE_CHECKING:
    from transfer.deltas.adapter import Adapter
    from transfer.deltas.attached import Attached
    from transfer.deltas.bitfit import BitFit
    from transfer.deltas.blocks import block_indices, block_of, n_blocks
    from transfer.deltas.common_structure import structure
    from transfer.deltas.compacter import Compacter
    from transfer.deltas.delta import Delta
    from transfer.deltas.described import describe
    from transfer.deltas.lora import LoRA
    from transfer.deltas.low_rank_adapter import LowRankAdapter
    from transfer.deltas.method import DeltaMethod
    from transfer.deltas.mixed import Mixed
    from transfer.deltas.parallel_adapter import ParallelAdapter
    from transfer.deltas.prefix import Prefix
    from transfer.deltas.pruning import prune
    from transfer.deltas.ranks import ranks_of
    from transfer.deltas.soft_prompt import SoftPrompt
    from transfer.deltas.sora import SoRA
    from transfer.deltas.switching import Switch

METHODS = Registry(
    "method",
    {
        "lora": "transfer.deltas.lora:LoRA",
        "adapter": "transfer.deltas.adapter:Adapter",
        "parallel-adapter": "transfer.deltas.parallel_adapter:ParallelAdapter",
        "low-rank-adapter": "transfer.deltas.low_rank_adapter:LowRankAdapter",
        "compacter": "transfer.deltas.compacter:Compacter",
        "prefix": "transfer.deltas.prefix:Prefix",
        "bitfit": "transfer.deltas.bitfit:BitFit",
        "soft-prompt": "transfer.deltas.soft_prompt:SoftPrompt",
        "sora": "transfer.deltas.sora:SoRA",
    },
)

# Public name -> file; imported on first use, since each of them needs torch.
_FILES = {
    "Adapter": "adapter",
    "Attached": "attached",
    "BitFit": "bitfit",
    "Compacter": "compacter",
    "Delta": "delta",
    "DeltaMethod": "method",
    "LoRA": "lora",
    "LowRankAdapter": "low_rank_adapter",
    "ParallelAdapter": "parallel_adapter",
    "Mixed": "mixed",
    "Prefix": "prefix",
    "SoRA": "sora",
    "SoftPrompt": "soft_prompt",
    "Switch": "switching",
    "block_of": "blocks",
    "describe": "described",
    "block_indices": "blocks",
    "n_blocks": "blocks",
    "prune": "pruning",
    "ranks_of": "ranks",
    "structure": "common_structure",
}

__all__ = [
    "METHODS",
    "Adapter",
    "Attached",
    "BitFit",
    "Compacter",
    "Delta",
    "DeltaMethod",
    "LoRA",
    "LowRankAdapter",
    "Mixed",
    "ParallelAdapter",
    "Prefix",
    "SoRA",
    "SoftPrompt",
    "Switch",
    "block_indices",
    "block_of",
    "describe",
    "n_blocks",
    "prune",
    "ranks_of",
    "structure",
]


__getattr__, __dir__ = lazy_names(__name__, _FILES)
