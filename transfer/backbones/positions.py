"""How many tokens a model can read, and how many of them deltas take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from transfer.deltas.prefix_positions import PositionShift
from transfer.deltas.soft_prompt_site import SoftPromptSite


def n_positions(model: nn.Module) -> int | None:
    """Tokens that the model has positions for; None where positions are relative and nothing limits them.

    RoBERTa and its kin number positions from the padding id on, so their table holds fewer tokens than rows.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    config: Any = model.config
    known = getattr(config, "max_position_embeddings", None)
    return known if isinstance(known, int) and known > 0 else None


def positions_taken(deltas: Iterable[nn.Module]) -> int:
    """Positions in front of the text that belong to the prefixes and soft prompts of attached deltas."""
    sites = [[site for site in delta.modules() if isinstance(site, PositionShift | SoftPromptSite)] for delta in deltas]
    return sum(max((site.length for site in found), default=0) for found in sites)
