"""Gradients of the mean loss on labelled examples: at the weights of named places, or of a delta's own tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.method import DeltaMethod
from transfer.deltas.modules import embedding_features, embedding_scale, named_modules

BATCH = 16  # examples of a backward pass

Pairs = dict[str, tuple[Tensor, Tensor]]


def weight_gradients(
    backbone: Backbone,
    places: Sequence[str],
    encoded: Sequence[Encoded],
    use: Callable[[Pairs], None],
    batch_size: int = BATCH,
) -> None:
    """Hand the gradient of the mean loss by the weights at `places` to `use`, batch by batch, in factors.

    The backbone runs bare, as it does at the start of a LoRA, whose B is zero.

    Args:
        backbone: Any kind; what is attached now comes back afterwards.
        places: Names of linear layers and embeddings.
        encoded: Labelled examples.
        use: Called for each batch with place -> (g (tokens, out), x (tokens, in)), fp32: the batch's share of
            dL/dW, L being the mean loss over all of `encoded`, is the sum over tokens of g x^T. Weight (out, in).
            At an embedding x is sparse: the one-hot rows of the ids.
    """
    probe = _Probe()
    modules = named_modules(backbone)
    with contextlib.ExitStack() as stack:
        stack.enter_context(backbone.bare())
        stack.enter_context(evaluating(backbone))
        stack.enter_context(torch.enable_grad())
        for place in places:
            handle = modules[place].register_forward_hook(probe.add_at(place), with_kwargs=True)
            stack.callback(handle.remove)
        for _, batch in backbone.batches(encoded, batch_size):
            probe.clear()
            losses = backbone(**backbone.to_device(backbone.collate(batch, train=True)))["losses"]
            use(probe.pairs(losses.sum() / len(encoded)))


def tensor_gradients(
    backbone: Backbone,
    method: DeltaMethod,
    tensors: Mapping[str, Tensor],
    encoded: Sequence[Encoded],
    batch_size: int = BATCH,
) -> dict[str, Tensor]:
    """Gradient of the mean loss by a delta's own tensors: canonical name -> gradient, fp32 on the CPU."""
    with backbone.use(method.direct(), tensors) as attached:
        total: dict[str, Tensor] = {}
        for part, _ in batch_gradients(backbone, attached, encoded, batch_size):
            for name, gradient in part.items():
                total[name] = total[name] + gradient if name in total else gradient
    return {name: gradient.float().cpu() / len(encoded) for name, gradient in total.items()}


def batch_gradients(
    backbone: Backbone, attached: Any, encoded: Sequence[Encoded], batch_size: int = BATCH
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """For each batch the gradient of its summed loss by the tensors of `attached`, and the number of its examples."""
    for _, batch in backbone.batches(encoded, batch_size):
        with evaluating(backbone), torch.enable_grad():
            named = dict(attached.named_tensors())
            losses = backbone(**backbone.to_device(backbone.collate(batch, train=True)))["losses"]
            found = torch.autograd.grad(losses.sum(), list(named.values()), allow_unused=True)
        # A tensor that the loss never reads (the keys of a layer whose output is dropped) has gradient zero.
        yield (
            {
                name: torch.zeros_like(value) if gradient is None else gradient
                for (name, value), gradient in zip(named.items(), found, strict=True)
            },
            len(batch),
        )


@contextlib.contextmanager
def evaluating(backbone: Backbone) -> Iterator[None]:
    """Dropout off inside the block."""
    training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(training)


class _Probe:
    """Adds a zero to the output at each place, whose gradient is that of the output, and keeps the inputs."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def clear(self) -> None:
        self.seen = []

    def add_at(self, place: str) -> Callable[..., Tensor]:
        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            x: Tensor = args[0] if args else next(iter(kwargs.values()))
            if (sizes := embedding_features(module)) is not None:
                x = one_hot(x, sizes[0]) * embedding_scale(module)
            zero = torch.zeros_like(output, requires_grad=True)
            self.seen.append((place, zero, x.detach()))
            return output + zero

        return add

    def pairs(self, loss: Tensor) -> Pairs:
        found = torch.autograd.grad(loss, [zero for _, zero, _ in self.seen], allow_unused=True)
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for (place, _, x), g in zip(self.seen, found, strict=True):
            if g is not None:
                rows = x if x.is_sparse else x.flatten(0, -2).float()
                parts.setdefault(place, []).append((g.flatten(0, -2).float(), rows))
        # An encoder reads inputs and choices in two passes: one place is seen twice.
        return {
            place: (torch.cat([g for g, _ in both]), torch.cat([x for _, x in both])) for place, both in parts.items()
        }


def one_hot(ids: Tensor, n: int) -> Tensor:
    """Rows (ids, n) with a one in the column of each id, sparse: a vocabulary is wide."""
    flat = ids.flatten()
    rows = torch.arange(len(flat), device=ids.device)
    return torch.sparse_coo_tensor(
        torch.stack([rows, flat]),
        torch.ones(len(flat), device=ids.device),
        (len(flat), n),
        is_coalesced=True,
        check_invariants=False,
    )
