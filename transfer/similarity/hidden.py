"""Similarity of hidden states: whether a module moves the inside of the backbone to where the target's own tune does.

Source: Lv et al. 2023, aclanthology.org/2023.acl-short.24 (importance of blocks), there over what goes into a block;
here over what comes out of it, since the first block's inputs are the same for every module and the last block's output
would never be looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer.backbones.encoding import Encoded
from transfer.deltas.blocks import BlockColumns, stack_and_index
from transfer.deltas.common_structure import structure
from transfer.deltas.modules import named_modules
from transfer.similarity.estimator import Estimator
from transfer.similarity.sources import places_of
from transfer.similarity.switching import over_modules
from transfer.similarity.target import SCRATCH_STEPS, Target
from zoo import Module

EXAMPLES = 32  # of the target, whose hidden states are kept


class HiddenCosine(Estimator):
    """Mean over blocks and examples of the cosine of hidden states: the target's short tune against each module.

    An example's hidden states at a block are those of all tokens of its input (and right answer, where the model reads
    both at once), end to end; examples run one by one, so that there is no padding among them. 32 examples; the tune is
    20 steps from the shared start; in [-1, 1].
    """

    name = "embedding:hidden"
    per_block = True

    def __init__(self, steps: int = SCRATCH_STEPS) -> None:
        self.steps = steps

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        return self._cosines(target, modules, _every_block(target)).mean(axis=1)

    def block_values(self, target: Target, modules: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
        columns = BlockColumns(places_of(modules))
        blocks = [""] * columns.outside
        for name in named_modules(target.backbone.model):
            found = stack_and_index(name)
            if found is not None and name == f"{found[0]}.{found[1]}" and columns[name] < columns.outside:
                blocks[columns[name]] = name
        every = _every_block(target)
        both = list(dict.fromkeys([*every, *blocks]))
        cosines = self._cosines(target, modules, both)
        return cosines[:, : len(every)].mean(axis=1), cosines[:, [both.index(block) for block in blocks]]

    def _cosines(self, target: Target, modules: Sequence[Module], blocks: Sequence[str]) -> np.ndarray:
        """(modules, blocks)."""
        rows = _evenly(target.sample, EXAMPLES)
        tuned = target.scratch_tune(self.steps)
        with target.backbone.use(target.method, tuned.tensors):
            ours = _states(target, rows, blocks)

        def compare(attached: Any, module: Module) -> np.ndarray:
            theirs = _states(target, rows, blocks)
            return np.array([_mean_cosine(ours[block], theirs[block]) for block in blocks])

        return np.stack(over_modules(target.backbone, modules, compare))


def _evenly(rows: Sequence[Encoded], most: int) -> list[Encoded]:
    """At most so many rows, evenly over the labels: a file may be sorted by them."""
    ordered = sorted(range(len(rows)), key=lambda index: (rows[index].label, index))
    chosen = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return [rows[ordered[place]] for place in chosen]


def _every_block(target: Target) -> list[str]:
    return list(structure(target.backbone.model).get("block", []))


def _states(target: Target, rows: Sequence[Encoded], blocks: Sequence[str]) -> dict[str, list[Tensor]]:
    """block -> for every example the hidden states that come out, (tokens * width,), fp32."""
    found: dict[str, list[Tensor]] = {block: [] for block in blocks}

    def keep_at(block: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if len(found[block]) == len(run):  # an encoder reads the choices in a second pass
                hidden = output[0] if isinstance(output, tuple) else output
                found[block].append(hidden.detach().float().flatten().cpu())

        return keep

    run: list[int] = []
    backbone = target.backbone
    modules = named_modules(backbone.model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(backbone.scoring())
        for block in blocks:
            stack.callback(modules[block].register_forward_hook(keep_at(block)).remove)
        for number, row in enumerate(rows):  # one by one: no token of an example is padding
            backbone(**backbone.to_device(backbone.collate([row], train=True)))
            run.append(number)
    return found


def _mean_cosine(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Mean cosine over what a block gave; where lengths differ (virtual tokens stand in front), of the last values."""
    cosines = []
    for left, right in zip(ours, theirs, strict=True):
        n = min(len(left), len(right))
        cosines.append(torch.cosine_similarity(left[-n:].double(), right[-n:].double(), dim=0))
    return float(torch.stack(cosines).mean())
