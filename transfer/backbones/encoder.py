"""Encoders (BERT, MiniLM, any sentence encoder): a choice is scored by its cosine with the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transfer.backbones.backbone import Backbone, Example
from transfer.backbones.encoding import Encoded, encode_texts, label_of, pad, with_modules
from transfer.backbones.ragged import groups
from transfer.errors import DataError

TEMPERATURE = 0.05  # of the cosine; that of SimCSE and most sentence encoders


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens. states: (batch, length, width); mask: (batch, length), 1 for a token, 0 for padding."""
    weight = mask.unsqueeze(-1).float()  # in fp32: a sum of a hundred states in bf16 loses digits
    return (states.float() * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1)


class EncoderBackbone(Backbone):
    """Mean-pools the input and each choice; logits are cosines over a temperature of 0.05."""

    kind = "encoder"

    def encode(self, examples: Iterable[Example], fields: Sequence[str] = ()) -> list[Encoded]:
        """See `Backbone.encode`. Equal choices are tokenised once."""
        rows = list(examples)
        if rows and "choices" not in rows[0]:
            raise DataError(
                "this task asks for generated text, which an encoder cannot give",
                found=f"columns {', '.join(rows[0])}",
                hint="use a seq2seq or causal backbone: --backbone t5-small",
            )
        inputs = encode_texts(self.tokenizer, [row["input"] for row in rows], self.max_length, fields)
        texts = sorted({choice for row in rows for choice in row["choices"]})
        known = dict(zip(texts, encode_texts(self.tokenizer, texts, self.max_length), strict=True))
        return [
            Encoded(ids, [known[choice] for choice in row["choices"]], label_of(row))
            for ids, row in zip(inputs, rows, strict=True)
        ]

    def collate(self, encoded: Sequence[Encoded], train: bool = False) -> dict[str, Any]:
        """See `Backbone.collate`. Equal choices of a batch are read once; "index" maps (row, choice) to them.

        -1 in the index is no choice. In a mixed batch a choice is read by every module that is asked about it.
        """
        pad_id = self.tokenizer.pad_token_id
        ids, mask = pad([row.input for row in encoded], pad_id)
        unique: dict[tuple[int | None, tuple[int, ...]], int] = {}
        columns = max((len(row.choices) for row in encoded), default=0)
        index = torch.full((len(encoded), columns), -1, dtype=torch.long)
        for number, row in enumerate(encoded):
            for column, choice in enumerate(row.choices):
                index[number, column] = unique.setdefault((row.module, tuple(choice)), len(unique))
        choice_ids, choice_mask = pad([choice for _, choice in unique], pad_id)
        read = {"input_ids": choice_ids, "attention_mask": choice_mask, "index": index}
        return {
            "input": with_modules({"input_ids": ids, "attention_mask": mask}, [row.module for row in encoded]),
            "choices": with_modules(read, [module for module, _ in unique]),
            "labels": torch.tensor([row.label for row in encoded], dtype=torch.long),
        }

    def forward(self, *, input: Any = None, choices: Any = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """See `Backbone.forward`: cross-entropy over the choices."""
        with self.autocast():
            left = nn.functional.normalize(self._pooled(input), dim=-1)
            right = nn.functional.normalize(self._pooled(choices), dim=-1)
        index = choices["index"]
        logits = (left @ right.T / TEMPERATURE).gather(1, index.clamp_min(0))
        logits = logits.masked_fill(index < 0, -torch.inf)
        if labels is None:
            return {"logits": logits}
        losses = nn.functional.cross_entropy(logits, labels.clamp_min(0), reduction="none")
        return {"loss": losses.mean(), "losses": losses, "logits": logits}

    def _pooled(self, batch: Any) -> Tensor:
        """Mean states (rows, width). On a CPU rows of unequal lengths are read in groups, with less padding."""
        mask = batch["attention_mask"]
        together = mask.device.type != "cpu" or "modules" in batch or self.serving
        lengths = [] if together else mask.sum(dim=1).tolist()
        parts = groups(lengths)
        if len(parts) < 2:
            with self.routed(batch.get("modules")):
                return self._pooled_at_once(batch["input_ids"], mask)
        rows = [torch.from_numpy(part) for part in parts]
        pooled = []
        for part in rows:
            width = lengths[part[0]]  # the longest comes first; `pad` puts padding to the right
            pooled.append(self._pooled_at_once(batch["input_ids"][part, :width], mask[part, :width]))
        return torch.cat(pooled)[torch.argsort(torch.cat(rows))]

    def _pooled_at_once(self, ids: Tensor, mask: Tensor) -> Tensor:
        return mean_pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def pooled_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """See `Backbone.pooled_states`."""
        ids, mask = pad(rows, self.tokenizer.pad_token_id)
        with self.autocast():
            read = self.to_device({"input_ids": ids, "attention_mask": mask})
            return self._pooled_at_once(read["input_ids"], read["attention_mask"])
