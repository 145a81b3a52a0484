"""What modules see inside the backbone: Gram matrices of the inputs at a place."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas.addressing import check_places
from transfer.deltas.modules import named_modules
from transfer.errors import DeltaError, SourceError, TransferError
from transfer.similarity.signatures import drawn
from transfer.similarity.sources import places_of
from transfer.tasks import load_task
from zoo import Module

EXAMPLES = 64  # of a source task, behind its Gram matrices


def input_grams(backbone: Backbone, encoded: Sequence[Encoded], places: Sequence[str]) -> dict[str, Tensor]:
    """The mean over tokens of x x^T at each place, on the bare backbone: place -> (in, in), fp32 on the CPU.

    Args:
        backbone: Left as it was found.
        encoded: Examples; labels are not looked at.
        places: Names of linear layers.
    Raises:
        DeltaError: the backbone lacks a place.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = defaultdict(int)
    real: list[Tensor] = []  # (rows, tokens): which of an encoder's inputs are no padding
    check_places(backbone.model, places)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        real[:] = [mask.bool() for name, mask in kwargs.items() if name == "attention_mask" and mask.ndim == 2]

    def add_at(place: str) -> Callable[..., None]:
        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = (args[0] if args else next(iter(kwargs.values()))).detach().float()
            x = x[real[0]] if encoder and real and real[0].shape == x.shape[:-1] else x.flatten(0, -2)
            totals[place] = totals.get(place, 0) + (x.T @ x).cpu()
            counts[place] += len(x)

        return add

    modules = named_modules(backbone)
    encoder = backbone.kind == "encoder"
    with contextlib.ExitStack() as stack:
        stack.enter_context(backbone.bare())
        stack.enter_context(backbone.scoring())
        stack.callback(backbone.model.register_forward_pre_hook(note, with_kwargs=True).remove)
        for place in places:
            stack.callback(modules[place].register_forward_hook(add_at(place), with_kwargs=True).remove)
        for _, batch in backbone.batches(encoded) if encoder else backbone.batches(encoded, 1):  # one has no padding
            backbone(**backbone.to_device(backbone.collate(batch, train=True)))
    return {place: (total / counts[place]).clone() for place, total in totals.items()}


def source_grams(
    backbone: Backbone, modules: Sequence[Module], say: Callable[[str], None], seed: int = 0
) -> dict[str, Mapping[str, Tensor]]:
    """Module id -> place -> Gram matrix, from examples of each module's own task, found by the task's name.

    Of the places of all modules: what has no change at a place has inputs there all the same.

    Raises:
        SourceError: a task's data cannot be found; names the module.
        DeltaError: a module acts on an embedding, which sees tokens and no vectors.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    by_task: dict[str, dict[str, Tensor]] = {}
    places = places_of(modules)
    for module in modules:
        if embeddings := module.card.settings.get("embeddings"):
            raise DeltaError(
                f"'regmean' cannot merge {module.id!r}, which acts on the embedding {embeddings[0]!r}",
                found="its input are tokens, and a Gram matrix would be as large as the vocabulary",
                hint="--merge svd",
            )
        key = module.card.task
        if key not in by_task:
            try:
                task = load_task(module.card.task)
            except TransferError as error:
                raise SourceError(
                    f"'regmean' needs examples of the task that {module.id!r} was trained on",
                    found=str(error).splitlines()[0],
                    hint="$TRANSFER_TASKS names a folder of tasks; in Python, merge_options={'grams': ...}",
                ) from error
            chosen = task.train.select(drawn(len(task.train), EXAMPLES, seed))
            by_task[key] = input_grams(backbone, backbone.encode(chosen, task.fields), places)
        found[module.id] = by_task[key]
    say(f"inputs of {len(by_task)} source tasks were read for the merge, at most {EXAMPLES} examples each")
    return found
