"""Backbone: a frozen pretrained model that answers a question with choices, in one interface for every kind."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from transfer.backbones.attention import quick_gradients
from transfer.backbones.carrier import Carrier, Numbers
from transfer.backbones.encoding import Encoded, buckets, encode_texts
from transfer.deltas.attached import backbone_parameters
from transfer.errors import BackboneError, ConfigError, DataError
from transfer.paths import without_folders

if TYPE_CHECKING:
    from transfer.backbones.serving import Server

Example = Mapping[str, Any]

EMBEDDED_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"


class Backbone(Carrier):
    """A pretrained model, its tokenizer, and its way of scoring the choices of an example.

    The parameters of `model` are frozen, so a module is fully described by its delta and can be asked about any task.

    Args:
        model: Any `PreTrainedModel`.
        tokenizer: Its tokenizer.
        name: What the user asked for: "embedded", a Hub id or a folder.
        fingerprint: 64 hex digits, see `transfer.backbones.fingerprint`.
        max_length: Tokens an input is cut to.
        precision: "fp32" or "bf16" (autocast).
        batch_size: Rows of a forward pass when scoring.
    Raises:
        ConfigError: `max_length` or `batch_size` is too small.
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
            raise ConfigError(f"max_length must be at least 8 tokens, got {max_length}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        for _, parameter in backbone_parameters(model):  # a delta that is on it already goes on training
            parameter.requires_grad_(False)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.max_length = max_length
        self.precision = precision
        self.batch_size = batch_size
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.eval()

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
        """{"logits": (batch, choices)}, -inf where a row has fewer choices.

        With labels also "losses" (batch,) and "loss", their mean; all of them can be differentiated.
        """

    @abstractmethod
    def pooled_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean-pooled hidden states (rows, width) of one batch of token ids."""

    def generate(
        self,
        examples: Iterable[Example],
        fields: Sequence[str] = (),
        max_new_tokens: int = 64,
        modules: Numbers = None,
    ) -> list[str]:
        """Greedy output for each example; `modules` as for `outputs`.

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
    def said_name(self) -> str:
        """The name for cards and recipes, which are handed on: of an absolute folder its own name alone."""
        return without_folders(self.name)

    @property
    def base_model(self) -> str:
        """The name by which other libraries find the same weights: a Hub id for the embedded one, else `said_name`."""
        return EMBEDDED_ON_HUB if self.name == "embedded" else self.said_name

    @property
    def width(self) -> int:
        """Width of `embed`."""
        config: Any = self.model.config
        return int(getattr(config, "hidden_size", None) or config.d_model)

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 autocast where `precision` asks for it; on a CPU with attention in fp32 where gradients are wanted."""
        if self.precision != "bf16":
            yield
            return
        device = self.device.type
        with torch.autocast(device, dtype=torch.bfloat16), quick_gradients(self.model, device):
            yield

    def to_device(self, batch: Any) -> Any:
        """A nested batch, moved to the device of the model."""
        if isinstance(batch, Tensor):
            return batch.to(self.device)
        if isinstance(batch, Mapping):
            return {key: self.to_device(value) for key, value in batch.items()}
        return batch

    def _encoded(
        self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str], modules: Numbers = None
    ) -> list[Encoded]:
        rows: list[Any] = list(examples)
        encoded = rows if rows and isinstance(rows[0], Encoded) else self.encode(rows, fields)
        if modules is None:
            return encoded
        if len(modules) != len(encoded):
            raise ConfigError(f"{len(modules)} modules for {len(encoded)} examples", hint="one for each, or None")
        return [replace(row, module=number) for row, number in zip(encoded, modules, strict=True)]

    def batches(
        self, encoded: Sequence[Encoded], size: int | None = None
    ) -> Iterator[tuple[np.ndarray, list[Encoded]]]:
        """(indices, examples) of about equal lengths, longest first."""
        for index in buckets([row.length for row in encoded], size or self.batch_size):
            yield index, [encoded[i] for i in index]

    def rows_at_once(self, columns: int) -> int:
        """Examples of a forward pass when each of them has `columns` choices."""
        return self.batch_size

    @contextlib.contextmanager
    def scoring(self) -> Iterator[None]:
        """No gradients and no dropout inside the block; the modes are as they were afterwards."""
        modes = [(module, module.training) for module in (self, *self._deltas())]
        self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for module, mode in modes:
                module.train(mode)

    def outputs(
        self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str] = (), modules: Numbers = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, choices) and losses (n,), fp32 on the CPU, in the order given; the loss is NaN where no label is.

        One forward pass gives both. Dropout is off.

        Args:
            examples: Rows, or what `encode` made of them.
            fields: The task's.
            modules: Inside `serve`, the number of the module that answers each example.
        Raises:
            DataError: an example has no choices, or a label that is none of them.
        """
        rows = self._encoded(examples, fields, modules)
        if not all(row.choices for row in rows):
            raise DataError(
                "an example has no choices to score", hint="give each its choices, or an output for a generation task"
            )
        odd = next((row for row in rows if row.label >= len(row.choices)), None)
        if odd is not None:
            raise DataError(
                f"an example has the label {odd.label}, but {len(odd.choices)} choices", hint="labels count from 0"
            )
        columns = max((len(row.choices) for row in rows), default=0)
        # Made outside `inference_mode`: such a tensor could never be used in a computation with gradients.
        logits = torch.full((len(rows), columns), -torch.inf)
        losses = torch.full((len(rows),), torch.nan)
        with self.scoring():
            for index, batch in self.batches(rows, self.rows_at_once(columns)):
                out = self(**self.to_device(self.collate(batch)))
                found = out["logits"].float().cpu()
                where = torch.from_numpy(index)
                logits[where, : found.shape[1]] = found
                known = torch.tensor([row.label >= 0 for row in batch])
                losses[where[known]] = out["losses"].float().cpu()[known]
        return logits, losses

    def choice_logits(self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str] = ()) -> Tensor:
        """A score for every candidate answer: (n, choices), -inf where a row has fewer choices."""
        return self.outputs(examples, fields)[0]

    def loss(self, examples: Iterable[Example] | Sequence[Encoded], fields: Sequence[str] = ()) -> Tensor:
        """Loss of each example (n,), the one that training minimises."""
        return self.outputs(examples, fields)[1]

    def embed(self, texts: Sequence[str], fields: Sequence[str] = (), modules: Numbers = None) -> Tensor:
        """Mean-pooled hidden states, unit length: (texts, width), fp32 on the CPU; `modules` as for `outputs`."""
        rows = encode_texts(self.tokenizer, list(texts), self.max_length, fields)
        result = torch.empty((len(rows), self.width))
        with self.scoring():
            for index in buckets([len(row) for row in rows], self.batch_size):
                with self.routed(None if modules is None else [modules[i] for i in index]):
                    pooled = self.pooled_states([rows[i] for i in index]).float()
                result[torch.from_numpy(index)] = nn.functional.normalize(pooled, dim=-1).cpu()
        return result

    @contextlib.contextmanager
    def serve(self, modules: Sequence[Any] | Mapping[str, Any]) -> Iterator[Server]:
        """Many modules at once inside the block, each row of a batch by its own; afterwards the backbone is as it was.

        with backbone.serve([first, second]) as server:
            server.choice_logits(examples, modules=[0, 1, None])

        Args:
            modules: What `use` takes, several of them; in a mapping they have names of their own.
        Raises:
            FingerprintError: one says that it was made for another backbone.
            DeltaError: one does not fit the model, or its method cannot be mixed with others.
        """
        from transfer.backbones.serving import Server

        with self.bare():
            yield Server(self, modules)
