"""The vectors of a soft prompt, and the hooks that put them in front of the text and take their rows off again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers.utils import ModelOutput

from transfer.deltas.input_stack import argument_names, embed, reader_of
from transfer.deltas.modules import named_modules
from transfer.deltas.prefix_positions import LEARNED
from transfer.deltas.queues import join_queue, leave_queue, queue_of
from transfer.deltas.site import Site
from transfer.errors import DeltaError

PROMPTS = "_soft_prompts"  # attribute of a stack
CACHE = ("cache", "past_key_values")  # the argument's name now and before transformers 5.24

Arguments = dict[str, Any]  # of a forward, by name


class SoftPromptSite(Site):
    """Vectors (length, width) before the text that one stack reads.

    Several are on one stack in the order they were attached, the first one in front.

    Args:
        place: Name of the stack's input embeddings.
        tensors: `prompt_embeddings`.
        model: The host.
        stack: Name of the stack.
    """

    prompt_embeddings: nn.Parameter
    _inserted = False  # from when the vectors are put in to the end of that forward

    def __init__(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module, stack: str) -> None:
        super().__init__(place, tensors)
        modules, reader = named_modules(model), reader_of(model, stack)
        # Past nn.Module.__setattr__: they are no children of this site. Copies and pickles of the host take them along.
        self.__dict__["_stack"] = modules[stack]
        self.__dict__["_reader"] = None if reader is None else modules[reader]
        self._names = argument_names(modules[stack])

    @property
    def length(self) -> int:
        """Number of vectors."""
        return self.prompt_embeddings.shape[0]

    def install(self, module: nn.Module) -> list[RemovableHandle]:
        stack, reader = self.__dict__["_stack"], self.__dict__["_reader"]
        join_queue(stack, PROMPTS, self)
        handles = [stack.register_forward_pre_hook(self.insert, with_kwargs=True)]
        if reader is not None:
            # The rows stay in the encoder's output, which the decoder reads, be it handed over by the model or by hand.
            return [*handles, reader.register_forward_pre_hook(self.show, with_kwargs=True)]
        handles.append(stack.register_forward_hook(self.cut))
        pooler = getattr(stack, "pooler", None)
        if isinstance(pooler, nn.Module):  # it takes the first row for that of the first token
            handles.append(pooler.register_forward_pre_hook(self.cut_for_pooler))
        return handles

    def uninstall(self, module: nn.Module) -> None:
        leave_queue(self.__dict__["_stack"], PROMPTS, self)

    def insert(self, module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[Any, Any] | None:
        """Pre-hook of the stack: the vectors, and room for them in masks, positions and token types.

        Where a cache holds the prompt already, only the room is made.

        Raises:
            DeltaError: there is no way to make room, or the cache was filled without this prompt.
        """
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        self._inserted = False
        if given.get("input_ids") is None and given.get("inputs_embeds") is None:
            return None  # the model has its own words for that
        before = sum(site.length for site in self._earlier())
        cached = _cached(given)
        if cached:
            self._check_cache(given, cached, before)
        else:
            positions = given.get("position_ids")
            if positions is None:
                given |= _positions_by_padding(module, given)
            text = given.pop("inputs_embeds", None)
            if text is None:
                text = embed(module, given["input_ids"])
            given |= {"input_ids": None, "inputs_embeds": self._with_rows(text, before)}
            self._check_length(module, given["inputs_embeds"].shape[1])
            self._inserted = True
        self._make_room(module, given, before, bool(cached))
        return (), given

    def cut(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Hook of the stack: rows (batch, length + text, ...) back to (batch, text, ...)."""
        if not self._inserted:
            return output
        self._inserted = False
        if isinstance(output, ModelOutput):
            return type(output)(**{name: self._without(value) for name, value in output.items()})
        return self._without(output)

    def cut_for_pooler(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pre-hook of the stack's pooler."""
        return (self._without(args[0]), *args[1:]) if self._inserted and args else args

    def show(self, module: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[Any, Any] | None:
        """Pre-hook of the decoder: it sees the prompt's rows, where the encoder's output has them.

        What was encoded without the prompt is read without it.
        """
        given = {**dict(zip(argument_names(module), args, strict=False)), **kwargs}
        states, mask = given.get("encoder_hidden_states"), given.get("encoder_attention_mask")
        if states is None or mask is None or states.shape[1] == mask.shape[-1]:
            return None
        given["encoder_attention_mask"] = self._padded(mask)
        return (), given

    def _prompts(self) -> list[SoftPromptSite]:
        return queue_of(self.__dict__["_stack"], PROMPTS)

    def _earlier(self) -> list[SoftPromptSite]:
        prompts = self._prompts()
        return prompts[: prompts.index(self)]

    def _with_rows(self, text: torch.Tensor, before: int) -> torch.Tensor:
        rows = self.prompt_embeddings.to(text).expand(text.shape[0], -1, -1)
        return torch.cat([text[:, :before], rows, text[:, before:]], dim=1)

    def _make_room(self, module: nn.Module, given: Arguments, before: int, cached: bool) -> None:
        """Extend what goes along with the rows; in a forward on a cache only what reaches over all of them."""
        mask, types, positions = (given.get(name) for name in ("attention_mask", "token_type_ids", "position_ids"))
        if mask is not None:
            given["attention_mask"] = self._padded(mask)
        if types is not None and not cached:
            given["token_type_ids"] = functional.pad(types, (self.length, 0))
        if positions is not None:
            if positions.dim() != 2:
                raise DeltaError(
                    f"the soft prompt at {self.place!r} cannot be given a position",
                    found=f"position ids of shape {tuple(positions.shape)}",
                    hint="leave position_ids out",
                )
            shifted = positions[:, 0 if cached else before :] + self.length
            if not cached:
                first = before + _first_position(module)
                own = torch.arange(first, first + self.length, device=positions.device, dtype=positions.dtype)
                shifted = torch.cat([positions[:, :before], own.expand(len(positions), -1), shifted], dim=1)
            given["position_ids"] = shifted

    def _padded(self, mask: Any) -> torch.Tensor:
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            shape = f"a mask of shape {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise DeltaError(
                f"the soft prompt at {self.place!r} needs a mask of shape (batch, length)",
                found=shape,
                hint="leave a static cache away, or use LoRA() or Adapter()",
            )
        return functional.pad(mask, (self.length, 0), value=1)

    def _check_cache(self, given: Arguments, cached: int, before: int) -> None:
        mask, text = given.get("attention_mask"), given.get("input_ids")
        text = given["inputs_embeds"] if text is None else text
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            return
        coming = sum(site.length for site in self._prompts()) - before
        if mask.shape[1] + coming != cached + text.shape[1]:
            raise DeltaError(
                f"the cache was not filled with the soft prompt at {self.place!r} attached, or was cropped since",
                found=f"{cached} cached rows for a mask of {mask.shape[1]} and a prompt of {coming}",
                hint="begin with an empty cache",
            )

    def _check_length(self, module: nn.Module, length: int) -> None:
        known = _n_positions(module)
        if known is not None and length > known:
            raise DeltaError(
                f"{length - self.length} tokens and a soft prompt of {self.length} are more than the model has "
                "positions for",
                found=f"{known} positions",
                hint=f"cut the text to {known - self.length} tokens",
            )

    def _without(self, value: Any) -> Any:
        """Hidden states (batch, rows, width) and attentions (batch, heads, rows, columns), alone or in a tuple."""
        if isinstance(value, tuple):
            return tuple(self._without(part) for part in value)
        if isinstance(value, torch.Tensor) and value.dim() == 3:
            return value[:, self.length :]
        if isinstance(value, torch.Tensor) and value.dim() == 4:
            return value[:, :, self.length :]
        return value


def _cached(given: Arguments) -> int:
    """Rows that the cache holds."""
    cache = next((given[name] for name in CACHE if given.get(name) is not None), None)
    return 0 if cache is None else int(cache.get_seq_length())


def _learned(module: nn.Module) -> list[nn.Embedding]:
    """The tables of learned positions in a stack."""
    return [
        table
        for name, table in module.named_modules()
        if name.rpartition(".")[2] in LEARNED and isinstance(table, nn.Embedding)
    ]


def _first_position(module: nn.Module) -> int:
    """RoBERTa and its kin number positions from behind the padding id."""
    return next((table.padding_idx + 1 for table in _learned(module) if table.padding_idx is not None), 0)


def _n_positions(module: nn.Module) -> int | None:
    """Rows that a stack has positions for; None where they are relative or rotary."""
    offsets = [(table, getattr(table, "offset", 0)) for table in _learned(module)]
    sizes = [table.num_embeddings - int(offset) for table, offset in offsets if isinstance(offset, int)]
    return min(sizes) - _first_position(module) if sizes else None


def _positions_by_padding(module: nn.Module, given: Arguments) -> Arguments:
    """Position ids that RoBERTa reads off its token ids: padding has none. It cannot tell from embeddings."""
    first, ids = _first_position(module), given.get("input_ids")
    if not first or ids is None or "position_ids" not in argument_names(module):
        return {}
    real = (ids != first - 1).to(ids.dtype)
    return {"position_ids": real.cumsum(dim=1) * real + first - 1}
