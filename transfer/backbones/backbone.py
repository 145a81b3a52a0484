"""Backbone: a frozen pretrained model that answers a question with choices, in one interface for every kind."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from transfer.backbones.attention import quick_gradients
from transfer.backbones.encoding import Encoded, buckets, encode_texts
from transfer.deltas.attached import Attached, Attachment
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.deltas.mixed import Mixed
from transfer.deltas.switching import Switch
from transfer.errors import BackboneError, ConfigError, DataError
from transfer.paths import without_folders

if TYPE_CHECKING:
    from transfer.backbones.serving import Server

Example = Mapping[str, Any]
Numbers = Sequence[int] | None  # of the module that answers each row of a mixed batch, -1 for none

EMBEDDED_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"


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
        self.model = model.requires_grad_(False)
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
            DataError: an example has no choices.
        """
        rows = self._encoded(examples, fields, modules)
        if not all(row.choices for row in rows):
            raise DataError(
                "an example has no choices to score", hint="give each its choices, or an output for a generation task"
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

    # ---- deltas

    @property
    def delta(self) -> Attached | None:
        """What is attached to the model now; the last of several."""
        found = [attached for attached in self._deltas() if isinstance(attached, Attached)]
        return found[-1] if found else None

    def _deltas(self) -> list[Attachment]:
        """In the order they were attached. Read off the model, so that `LoRA().attach(backbone)` counts as well."""
        return [child for child in self.model.children() if isinstance(child, Attachment)]

    def attach(self, delta: Any, tensors: Mapping[str, Tensor] | None = None, seed: int = 0) -> Attached:
        """Attach a delta; it replaces what is attached now, unless it does not fit: then nothing changes.

        Args:
            delta: A method (`LoRA()`), a `Delta`, a stored module, what holds a delta such as an `Initialization`, or
                what was attached to this backbone before.
            tensors: Canonical name -> tensor; None takes those of `delta`, or for a method its start.
            seed: Of the start.
        Raises:
            DeltaError: the delta cannot go on this model, or the tensors do not fit.
            FingerprintError: it says that it was made for another backbone.
        """
        before = self._deltas()
        self.detach()
        try:
            attached = self._attached(delta, tensors, seed)
        except BaseException:
            for old in before:
                old.attach()
            self.train(self.training)
            raise
        attached.train(self.training)
        return attached

    def _attached(self, delta: Any, tensors: Mapping[str, Tensor] | None, seed: int) -> Attached:
        if isinstance(delta, Attached) and delta.host is self.model:
            attached = delta.attach()
            if tensors is not None:
                attached.load_state_dict(tensors)
            return attached
        if isinstance(delta, DeltaMethod):
            return delta.attach(self.model, tensors, seed)
        found = Delta.of(delta, self)
        return found.attach(self.model) if tensors is None else found.method.attach(self.model, tensors)

    def detach(self) -> None:
        """Take the delta off; the model answers as it did before."""
        for attached in reversed(self._deltas()):
            attached.detach()

    def merge(self) -> None:
        """Fold what is attached into the model's parameters; from then on it is another backbone, by its fingerprint.

        Raises:
            BackboneError: nothing is attached.
            DeltaError: a delta is no change of parameters; nothing has been changed then.
        """
        from transfer.backbones.fingerprints import fingerprint
        from transfer.deltas.folding import merged_values

        deltas = [attached for attached in self._deltas() if isinstance(attached, Attached)]
        if not deltas or len(deltas) < len(self._deltas()):
            raise BackboneError(
                "no delta is attached that could be merged",
                found="one that differs by row" if self._deltas() else None,
                hint="backbone.attach(delta)",
            )
        for attached in deltas[1:]:
            merged_values(attached)  # refuses before the first is folded in, which refuses by itself
        for attached in deltas:
            attached.merge()
        self.model.requires_grad_(False)
        self.fingerprint = fingerprint(self.model, self.tokenizer)

    @contextlib.contextmanager
    def use(self, delta: Any, tensors: Mapping[str, Tensor] | None = None) -> Iterator[Attached]:
        """The backbone with `delta` attached inside the block, and as it was afterwards; see `attach`."""
        with self.bare():
            yield self.attach(delta, tensors)

    @contextlib.contextmanager
    def switching(self) -> Iterator[Switch]:
        """Go from delta to delta inside the block with `switch.to(delta)`; afterwards the backbone is as it was."""
        with self.bare():
            yield Switch(self)

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

    def routed(self, modules: Numbers | Tensor) -> contextlib.AbstractContextManager[Any]:
        """Inside the block the rows of a forward pass are read by the modules of these numbers; None says nothing.

        Raises:
            BackboneError: modules are named, but none are served.
        """
        if modules is None:
            return contextlib.nullcontext()
        mixed = [attached for attached in self._deltas() if isinstance(attached, Mixed)]
        if not mixed:
            raise BackboneError("rows name modules, but none are served", hint="with backbone.serve(modules) as server")
        return mixed[-1].rows(modules)

    @contextlib.contextmanager
    def bare(self) -> Iterator[None]:
        """The backbone without its delta inside the block, and as it was afterwards."""
        kept = [(attached, attached.training) for attached in self._deltas()]
        training = self.training
        self.detach()
        try:
            yield
        finally:
            self.detach()
            self.train(training)
            for attached, mode in kept:
                attached.attach().train(mode)

    def train(self, mode: bool = True) -> Backbone:
        """Only the delta's own dropout follows `mode`: the frozen model stays in evaluation mode."""
        self.training = mode
        self.model.eval()
        for attached in self._deltas():
            attached.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """The tensors of the delta, by canonical name; empty without one."""
        return {} if self.delta is None else self.delta.state_dict()

    def load_state_dict(  # type: ignore[override]
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> LoadedKeys:
        """Load the tensors of the delta, whole or not at all: `strict` is there for the Trainer, which turns it off.

        Raises:
            BackboneError: nothing is attached.
            DeltaError: the names or shapes are not those of the delta.
        """
        if self.delta is None:
            raise BackboneError("no delta is attached that could be loaded into", hint="backbone.attach(LoRA())")
        self.delta.load_state_dict(state_dict)
        return LoadedKeys([], [])
