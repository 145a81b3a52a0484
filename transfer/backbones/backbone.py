"""Backbone: a frozen pretrained model that answers a question with choices, in one interface for every kind."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transfer.backbones.encoding import Encoded, buckets, encode_texts
from transfer.errors import BackboneError

Example = Mapping[str, Any]


class LoadedKeys(NamedTuple):
    """What `load_state_dict` reports, in the form that torch and the Trainer expect."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Backbone(nn.Module):
    """A pretrained model, its tokenizer, and its way of scoring the choices of an example.

    Every parameter of `model` is frozen; the only trained tensors are those of the attached delta, so a module is fully
    described by its delta and can be asked about any task. `state_dict()` holds the delta alone.

    Args:
        model: Any `PreTrainedModel`.
        tokenizer: Its tokenizer.
        name: What the user asked for: "embedded", a Hub id or a folder.
        fingerprint: 64 hex digits, see `transfer.backbones.fingerprint`.
        max_length: Tokens an input is cut to.
        precision: "fp32" or "bf16" (autocast).
        batch_size: Rows of a forward pass under `inference_mode`.
    """

    kind: ClassVar[str]
    _keys_to_ignore_on_save = None  # asked for by the Trainer of transformers

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str,
        fingerprint: str,
        max_length: int = 128,
        precision: str = "fp32",
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        if max_length < 8:
            raise BackboneError(f"max_length must be at least 8 tokens, got {max_length}")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.max_length = max_length
        self.precision = precision
        self.batch_size = batch_size
        self.__dict__["delta"] = None  # not a registered child: the delta already lives inside `model`
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)

    # ---- what differs between the kinds

    @abstractmethod
    def encode(self, examples: Iterable[Example], fields: Sequence[str] = ()) -> list[Encoded]:
        """Tokenise examples once; `fields` are the task's, so that cutting spares the short ones."""

    @abstractmethod
    def collate(self, encoded: Sequence[Encoded], train: bool = False) -> dict[str, Any]:
        """A batch for `forward`: {"input", "choices", "labels"}.

        `train=True` leaves out what only scoring needs (the wrong choices, where the loss does not look at them).
        """

    @abstractmethod
    def forward(self, *, input: Any = None, choices: Any = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """{"logits": (batch, choices)}, -inf where a row has fewer choices; with labels also "losses" (batch,) and "loss"."""

    @abstractmethod
    def pooled_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean-pooled hidden states (rows, width) of one batch of token ids."""

    def generate(self, examples: Iterable[Example], fields: Sequence[str] = (), max_new_tokens: int = 64) -> list[str]:
        """Greedy output for each example.

        Raises:
            BackboneError: this kind cannot generate.
        """
        raise BackboneError(
            f"{self.name!r} is an encoder and cannot generate text",
            hint="use a seq2seq or causal backbone for generation tasks: --backbone t5-small",
        )

    # ---- what all kinds share

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """Width of `embed`."""
        config: Any = self.model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 autocast where `precision` asks for it."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def to_device(self, batch: Any) -> Any:
        """A nested batch, moved to the device of the model."""
        if isinstance(batch, Tensor):
            return batch.to(self.device)
        if isinstance(batch, Mapping):
            return {key: self.to_device(value) for key, value in batch.items()}
        return batch

    def _encoded(self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str]) -> list[Encoded]:
        rows = list(examples)
        if rows and isinstance(rows[0], Encoded):
            return rows  # type: ignore[arg-type]
        return self.encode(rows, fields)  # type: ignore[arg-type]

    def batches(self, encoded: Sequence[Encoded], size: int | None = None) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
        """(indices, examples) of about equal lengths, longest first."""
        for index in buckets([row.length for row in encoded], size or self.batch_size):
            yield index, [encoded[i] for i in index]

    @torch.inference_mode()
    def outputs(
        self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str] = ()
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, choices) and losses (n,), fp32 on the CPU, in the order given; the loss is NaN where no label is.

        One forward pass gives both. Dropout is off.
        """
        rows = self._encoded(examples, fields)
        columns = max((len(row.choices) for row in rows), default=0)
        logits = torch.full((len(rows), columns), -torch.inf)
        losses = torch.full((len(rows),), torch.nan)
        training = self.training
        self.eval()
        try:
            for index, batch in self.batches(rows):
                out = self(**self.to_device(self.collate(batch)))
                found = out["logits"].float().cpu()
                where = torch.from_numpy(index)
                logits[where, : found.shape[1]] = found
                known = torch.tensor([row.label >= 0 for row in batch])
                losses[where[known]] = out["losses"].float().cpu()[known]
        finally:
            self.train(training)
        return logits, losses

    def choice_logits(
        self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str] = ()
    ) -> Tensor:
        """A score for every candidate answer: (n, choices), -inf where a row has fewer choices."""
        return self.outputs(examples, fields)[0]

    def loss(self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str] = ()) -> Tensor:
        """Loss of each example (n,), the one that training minimises."""
        return self.outputs(examples, fields)[1]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], fields: Sequence[str] = ()) -> Tensor:
        """Mean-pooled hidden states, unit length: (texts, width), fp32 on the CPU."""
        rows = encode_texts(self.tokenizer, list(texts), self.max_length, fields)
        result = torch.empty((len(rows), self.width))
        training = self.training
        self.eval()
        try:
            for index in buckets([len(row) for row in rows], self.batch_size):
                pooled = self.pooled_states([rows[i] for i in index]).float()
                result[torch.from_numpy(index)] = nn.functional.normalize(pooled, dim=-1).cpu()
        finally:
            self.train(training)
        return result

    # ---- deltas

    def attach(self, delta: Any, tensors: Mapping[str, Tensor] | None = None, seed: int = 0) -> Any:
        """Attach a method (`LoRA()`) or a `Delta`; it replaces the one that is attached now."""
        self.detach()
        attached = delta.attach(self.model, tensors, seed=seed) if tensors is not None else delta.attach(self.model, seed=seed)
        self.__dict__["delta"] = attached
        return attached

    def detach(self) -> None:
        """Take the delta off; the model answers as it did before."""
        if self.delta is not None and self.delta.attached:
            self.delta.detach()
        self.__dict__["delta"] = None

    @contextlib.contextmanager
    def use(self, delta: Any, tensors: Mapping[str, Tensor] | None = None) -> Iterator[Any]:
        """The backbone with `delta` attached inside the block, and as it was afterwards."""
        with self.bare():
            try:
                yield self.attach(delta, tensors)
            finally:
                self.detach()

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """The backbone without its delta inside the block."""
        kept = self.delta
        if kept is not None:
            kept.detach()
        self.__dict__["delta"] = None
        try:
            yield
        finally:
            if kept is not None:
                kept.attach()
            self.__dict__["delta"] = kept

    def train(self, mode: bool = True) -> Backbone:
        """Only the delta's own dropout follows `mode`: the frozen model stays in evaluation mode."""
        self.training = mode
        self.model.eval()
        if self.delta is not None:
            self.delta.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The tensors of the delta, by canonical name; empty without one."""
        return {} if self.delta is None else dict(self.delta.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> LoadedKeys:  # type: ignore[override]
        """Load the tensors of the delta."""
        if self.delta is None:
            raise BackboneError("no delta is attached, so there is nothing to load into", hint="backbone.attach(LoRA())")
        self.delta.load_state_dict(state_dict)
        return LoadedKeys([], [])
