"""Similarity by gradients: what the target's loss says of each module without trying all of them out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer.deltas.addressing import check_places
from transfer.deltas.blocks import BlockColumns
from transfer.similarity.capture import Pairs, batch_gradients, weight_gradients
from transfer.similarity.estimator import Estimator
from transfer.similarity.factors import differences, in_weight_space, weight_factors
from transfer.similarity.sketch import SIZE
from transfer.similarity.sources import check_shapes, places_of, signature_arrays, start_of
from transfer.similarity.switching import method_of, over_modules
from transfer.similarity.target import Target
from zoo import Module

CHUNK = 256  # modules stacked at once: with more, the products of a batch would fill the memory
MOST_VALUES = 2**25  # of them: 128 MiB in fp32; modules of a large backbone come a few at a time
MOST_KEPT = 2**28  # values that are held over all batches: 1 GiB; what is more is read anew for each batch


class FirstOrder(Estimator):
    """How much the target's loss falls, to first order, on the way from the shared start to each module.

    LoRA in weight space: minus the sum over places of <dL/dW, scale * B A>, from one backward pass of the bare
    backbone over the target's examples, which is where B = 0 starts. With inputs x and output gradients g at a place
    the product is the sum over tokens of <B^T g, A x>: neither dL/dW nor B A is formed, and the A and B of all
    modules stand in one matrix. Other methods: minus <dL/dtheta, theta_j - theta_0> at the shared start.
    L is the mean loss per example, so the score is a change of loss per example.
    """

    name = "gradient:first-order"
    per_block = True

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        return self._by_block(target, modules).sum(axis=1)

    def block_values(self, target: Target, modules: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
        shares = self._by_block(target, modules)
        return shares.sum(axis=1), shares[:, :-1]

    def _by_block(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        """(modules, blocks + 1): the share of each block, and last what lies outside of them."""
        if in_weight_space(target.method):
            return self._by_weights(target, modules)
        columns = BlockColumns(target.start)
        scores = np.zeros((len(modules), columns.outside + 1))
        for row, module in zip(scores, modules, strict=True):
            moved = differences(dict(module.tensors(dtype=torch.float32)), start_of(module))
            check_shapes(module, moved, target.start)
            gradient = target.gradient(method_of(module))  # one for all modules of equal settings
            for name in gradient:
                row[columns[name]] -= float((gradient[name] * moved[name]).double().sum())
        return scores

    def _by_weights(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        columns = BlockColumns(places_of(modules))
        scores = torch.zeros(len(modules), columns.outside + 1, dtype=torch.float64)
        device = target.backbone.device
        kept: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = []
        held = values = 0
        for n, stack in _stacks(modules, device):
            values += sum(a.numel() + b.numel() for a, b, _ in stack.values())
            if kept and values > MOST_KEPT:
                break
            kept.append(stack)
            held += n

        def add(pairs: Pairs) -> None:
            read_anew = (stack for _, stack in _stacks(modules[held:], device, held))
            for stack in itertools.chain(kept, read_anew):
                for place, (a, b, owner) in stack.items():
                    if place in pairs:
                        g, x = pairs[place]
                        products = ((x @ a.T) * (g @ b.T)).sum(dim=0)
                        scores[:, columns[place]].index_add_(0, owner, -products.double().cpu())

        weight_gradients(target.backbone, _places(target, modules), target.sample, add)
        return scores.numpy()


def _places(target: Target, modules: Sequence[Module]) -> list[str]:
    """Every place that a module has factors at; DeltaError if the backbone lacks one."""
    listed = {tuple(module.card.settings.get("places", ())): module for module in modules}
    places = {place for module in listed.values() for place in method_of(module).places(target.backbone.model)}
    return check_places(target.backbone.model, sorted(places))


def _stacks(
    modules: Sequence[Module], device: torch.device, first: int = 0
) -> Iterator[tuple[int, dict[str, tuple[Tensor, Tensor, Tensor]]]]:
    """For each chunk of modules how many they are, and

    place -> (A (ranks, in), scale * B^T (ranks, out), number of the module (ranks,), from `first`).

    `ranks` is the sum of the modules' ranks there, which may differ. A chunk has at least one module, and no more than
    `CHUNK` modules or `MOST_VALUES` values.
    """
    parts: dict[str, list[tuple[Tensor, Tensor, int]]] = {}
    held, values = 0, 0
    for number, module in enumerate(modules, first):
        factors = weight_factors(method_of(module), dict(module.tensors(dtype=torch.float32)))
        size = sum(a.numel() + b.numel() for a, b in factors.values())
        if held and (held >= CHUNK or values + size > MOST_VALUES):
            yield held, _stack(parts, device)
            parts, held, values = {}, 0, 0
        for place, (a, b) in factors.items():
            parts.setdefault(place, []).append((a, b.T, number))
        held, values = held + 1, values + size
    if held:
        yield held, _stack(parts, device)


def _stack(
    parts: dict[str, list[tuple[Tensor, Tensor, int]]], device: torch.device
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    return {
        place: (
            torch.cat([a for a, _, _ in found]).to(device),
            torch.cat([b for _, b, _ in found]).to(device),
            torch.cat([torch.full((len(a),), number) for a, _, number in found]),
        )
        for place, found in parts.items()
    }


class GradientNorm(Estimator):
    """Minus the norm of the gradient that the target has at each module: a module that fits leaves little to learn.

    The mean over batches of 16 of the norm of the batch's mean-loss gradient by the module's tensors, dropout off.
    Source: Lv et al. 2023, aclanthology.org/2023.acl-short.24 (GraNd, there summed over batches); the norm itself is
    that of Paul et al. 2021, arxiv.org/abs/2107.07075, section 2.
    """

    name = "gradient:grand"
    per_block = True

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        return self.block_values(target, modules)[0]

    def block_values(self, target: Target, modules: Sequence[Module]) -> tuple[np.ndarray, np.ndarray]:
        columns = BlockColumns(places_of(modules))

        def norms(attached: Any, module: Module) -> np.ndarray:
            found = []
            for gradients, n in batch_gradients(target.backbone, attached, target.sample):
                squares = np.zeros(columns.outside + 1)
                for name, gradient in gradients.items():
                    squares[columns[name]] += float((gradient.double() ** 2).sum())
                found.append(np.sqrt([squares.sum(), *squares[:-1]]) / n)
            return np.asarray(np.mean(found, axis=0))

        table = -np.stack(over_modules(target.backbone, modules, norms))
        return table[:, 0], table[:, 1:]


class GradientAlignment(Estimator):
    """Cosine of the target's gradient at the shared start with the source task's, both as sketches, in [-1, 1].

    The source's is in its signature; for LoRA it is the gradient by the weights at the module's places, so the target's
    is taken once for all modules of the same places. For other methods it is that by the delta's tensors, which must
    have the names and shapes of the start.
    """

    name = "gradient:alignment"

    def values(self, target: Target, modules: Sequence[Module]) -> np.ndarray:
        sources = np.stack(signature_arrays(modules, "gradient_sketch", SIZE)).astype(np.float64)
        alike: dict[str, list[int]] = {}
        for row, module in enumerate(modules):
            alike.setdefault(json.dumps(module.card.settings, sort_keys=True), []).append(row)
        scores = np.empty(len(modules))
        for rows in alike.values():
            ours = _target_sketch(target, modules[rows[0]]).astype(np.float64)
            norms = np.linalg.norm(sources[rows], axis=1) * np.linalg.norm(ours)
            scores[rows] = sources[rows] @ ours / np.maximum(norms, np.finfo(np.float64).tiny)
        return scores


def _target_sketch(target: Target, module: Module) -> np.ndarray:
    """Sketch of the target's gradient by what the module's own was taken by."""
    if in_weight_space(target.method):
        return target.gradient_sketch(method_of(module))
    check_shapes(module, dict(module.tensors(check=False)), target.start)
    return target.gradient_sketch(method_of(module))
