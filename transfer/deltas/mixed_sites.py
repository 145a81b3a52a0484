"""LoRA, adapter and BitFit in mixed batches: each row is multiplied with its own matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from transfer.deltas.adapter import ACTIVATIONS
from transfer.deltas.fused import fused_at, rows_of_parts
from transfer.deltas.method import DeltaMethod
from transfer.deltas.mixed import MixedSite, Piece, Router
from transfer.deltas.modules import embedding_features, named_modules
from transfer.deltas.site import own_precision
from transfer.errors import DeltaError


def stack_up(tensors: Sequence[torch.Tensor | None], in_front: bool = False) -> torch.Tensor:
    """(1 + tensors, ...), the first zero, each padded with zeros to the largest size; None is all zero.

    The padding is behind, or `in_front`.

    >>> stack_up([torch.ones(1), None, torch.ones(2)]).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    """
    shapes = [tensor.shape for tensor in tensors if tensor is not None]
    stack = torch.zeros(1 + len(tensors), *(max(sizes) for sizes in zip(*shapes, strict=True)))
    for row, tensor in zip(stack[1:], tensors, strict=True):
        if tensor is not None:
            gaps = [most - size if in_front else 0 for size, most in zip(tensor.shape, row.shape, strict=True)]
            row[tuple(slice(gap, gap + size) for gap, size in zip(gaps, tensor.shape, strict=True))] = tensor
    return stack


def stacks_of(
    place: str, pieces: Sequence[Piece | None], names: Sequence[str], in_front: bool = False
) -> dict[str, torch.Tensor]:
    """Local name -> stack, padded as `stack_up` does it.

    Raises:
        DeltaError: a delta has other tensors at this place.
    """
    for piece in pieces:
        if piece is not None and set(piece.tensors) != set(names):
            raise DeltaError(
                f"the {piece.method.method} delta at {place!r} cannot be mixed with others in one batch",
                found=f"tensors {', '.join(piece.tensors)}",
                hint="backbone.switching() goes from delta to delta",
            )
    own = {name: [None if piece is None else piece.tensors[name] for piece in pieces] for name in names}
    return {name: stack_up(tensors, in_front) for name, tensors in own.items()}


def trained_parts(site: MixedSite, name: str, pieces: Sequence[Piece | None], model: nn.Module) -> MixedSite:
    """The site, which trains of the stack called `name` only what each delta alone would train at a fused layer."""
    stack = site.get_parameter(name)
    rows = torch.ones(stack.shape[:2], dtype=torch.bool)
    for number, piece in enumerate(pieces, 1):
        parts = None if piece is None else piece.method.parts.get(site.place)
        if parts:
            together = fused_at(model).get(site.place, ())
            rows[number] = rows_of_parts(named_modules(model), site.place, parts, together)
    if not rows.all():
        site.trained[name] = rows
    return site


def by_row(x: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """x (batch, ..., in) times matrices (batch, out, in), a matrix for each row: (batch, ..., out)."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.bmm(flat, matrices.to(x.dtype).transpose(1, 2)).reshape(*x.shape[:-1], matrices.shape[1])


def along(x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """vectors (batch, width) in the shape that they can be added to x (batch, ..., width) in."""
    return vectors.to(x.dtype).reshape(x.shape[0], *(1 for _ in x.shape[1:-1]), vectors.shape[-1])


class LoRARows(MixedSite):
    """A (1 + deltas, rank, in) and B (1 + deltas, out, rank), with the scales in B."""

    @classmethod
    def build(cls, place: str, pieces: Sequence[Piece | None], router: Router, model: nn.Module) -> MixedSite:
        if embedding_features(model.get_submodule(place)) is not None:
            raise DeltaError(
                f"a LoRA on the embedding {place!r} cannot be mixed with others in one batch",
                hint="backbone.switching() goes from delta to delta",
            )
        stacks = stacks_of(place, pieces, ("lora_A", "lora_B"))
        for number, piece in enumerate(pieces, 1):
            if piece is not None:
                stacks["lora_B"][number] *= piece.method.scale(place)
        return trained_parts(cls(place, stacks, router), "lora_B", pieces, model)

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add, with_kwargs=True)]

    def add(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        """Forward hook. Input (batch, ..., in), output (batch, ..., out)."""
        x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        x = own_precision(x, self.get_parameter("lora_A"))
        narrow = by_row(x, self.picked("lora_A", x.shape[0]))
        return output + by_row(narrow, self.picked("lora_B", x.shape[0])).to(output.dtype)


class AdapterRows(MixedSite):
    """The bottlenecks after one linear layer; a kind for each activation."""

    activation: str

    @classmethod
    def kind(cls, method: DeltaMethod) -> str:
        if getattr(method, "reads", "output") != "output":
            raise DeltaError(
                "an adapter that reads the sum with the residual cannot be mixed with others in one batch",
                hint="backbone.switching() goes from delta to delta",
            )
        return str(getattr(method, "activation"))  # noqa: B009

    @classmethod
    def build(cls, place: str, pieces: Sequence[Piece | None], router: Router, model: nn.Module) -> MixedSite:
        names = [f"adapter_{side}.{part}" for side in ("down", "up") for part in ("weight", "bias")]
        site = cls(place, stacks_of(place, pieces, names), router)
        site.activation = next(piece.method.activation for piece in pieces if piece is not None)
        return site

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add)]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook. The output is (batch, ..., width), or a tuple whose first item is."""
        hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
        x = own_precision(hidden, self.get_parameter("adapter_down.weight"))
        narrow = ACTIVATIONS[self.activation](self._linear("adapter_down", x))
        # What is padded adds nothing, whatever the activation makes of zero: its columns of `up` are zero.
        changed = hidden + self._linear("adapter_up", narrow).to(hidden.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        y = by_row(x, self.picked(f"{name}.weight", batch))
        return y + along(y, self.picked(f"{name}.bias", batch))


class BiasRows(MixedSite):
    """What BitFit adds to the output of one layer."""

    @classmethod
    def build(cls, place: str, pieces: Sequence[Piece | None], router: Router, model: nn.Module) -> MixedSite:
        site = cls(place, stacks_of(place, pieces, ("bitfit_bias",)), router)
        return trained_parts(site, "bitfit_bias", pieces, model)

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        return [module.register_forward_hook(self.add)]

    def add(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook. Output (batch, ..., width)."""
        return output + along(output, self.picked("bitfit_bias", output.shape[0]))
