"""How many tokens a model can read."""

from __future__ import annotations

from typing import Any

from torch import nn


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
