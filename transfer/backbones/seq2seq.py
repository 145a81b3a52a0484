"""Encoder-decoder models (T5, BART): the input is encoded once, every choice is decoded against it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from transfer.backbones.backbone import Example
from transfer.backbones.carrier import Numbers
from transfer.backbones.encoder import mean_pool
from transfer.backbones.encoding import Encoded, encode_texts, pad, with_modules
from transfer.backbones.generative import IGNORED, GenerativeBackbone, answers, token_log_likelihood
from transfer.backbones.positions import n_positions


class Seq2SeqBackbone(GenerativeBackbone):
    """Scores a choice as the output of the decoder."""

    kind = "seq2seq"

    @property
    def first_token(self) -> int:
        """The model's start token; where it names none, the padding."""
        config: Any = self.model.config
        found = (config.decoder_start_token_id, config.pad_token_id, 0)
        return next(int(token) for token in found if token is not None)

    def encode(self, examples: Iterable[Example], fields: Sequence[str] = ()) -> list[Encoded]:
        """See `Backbone.encode`; a choice ends with the end-of-sequence token."""
        rows = list(examples)
        inputs = encode_texts(self.tokenizer, [row["input"] for row in rows], self.max_length, fields)
        candidates = [answers(row) for row in rows]
        texts = sorted({text for found, _ in candidates for text in found})
        end = self.tokenizer.eos_token_id
        outputs = encode_texts(self.tokenizer, texts, self.max_length - 1, special=False)
        known = {text: [*ids, end] if end is not None else ids for text, ids in zip(texts, outputs, strict=True)}
        return [
            Encoded(ids, [known[text] for text in found], label)
            for ids, (found, label) in zip(inputs, candidates, strict=True)
        ]

    def collate(self, encoded: Sequence[Encoded], train: bool = False) -> dict[str, Any]:
        """See `Backbone.collate`."""
        ids, mask = pad([row.input for row in encoded], self.tokenizer.pad_token_id)
        rows, tokens, index, labels = self.pairs(encoded, train)
        targets, real = pad(tokens, 0)
        read = {
            "row": torch.tensor(rows, dtype=torch.long),
            "targets": targets.masked_fill(real == 0, IGNORED),
            "index": index,
        }
        return {
            "input": with_modules({"input_ids": ids, "attention_mask": mask}, [row.module for row in encoded]),
            "choices": with_modules(read, [encoded[row].module for row in rows]),
            "labels": labels,
        }

    def forward(self, *, input: Any = None, choices: Any = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """See `Backbone.forward`."""
        model: Any = self.model
        with self.autocast():
            with self.routed(input.get("modules")):
                states = self._encoder_states(input)
            row, targets = choices["row"], choices["targets"]
            with self.routed(choices.get("modules")):
                logits = model(
                    encoder_outputs=BaseModelOutput(last_hidden_state=states[row]),
                    attention_mask=input["attention_mask"][row],
                    decoder_input_ids=self._shifted(targets),
                    use_cache=False,
                ).logits
        return self.answer(token_log_likelihood(logits, targets), choices["index"], labels)

    def _encoder_states(self, batch: Any) -> Tensor:
        encoder: Any = self.model.get_encoder()  # type: ignore[operator]
        return encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state

    def _shifted(self, targets: Tensor) -> Tensor:
        """Decoder inputs: the targets moved right by one, begun with the first token."""
        config: Any = self.model.config
        pad_id = config.pad_token_id if config.pad_token_id is not None else 0
        moved = torch.full_like(targets, self.first_token)
        moved[:, 1:] = targets[:, :-1]
        return moved.masked_fill(moved == IGNORED, pad_id)

    def pooled_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """See `Backbone.pooled_states`: of the encoder."""
        ids, mask = pad(rows, self.tokenizer.pad_token_id)
        batch = self.to_device({"input_ids": ids, "attention_mask": mask})
        with self.autocast():
            states = self._encoder_states(batch)[:, -ids.shape[1] :]  # a soft prompt has rows in front of the text's
            return mean_pool(states, batch["attention_mask"])

    def generate(
        self,
        examples: Iterable[Example],
        fields: Sequence[str] = (),
        max_new_tokens: int = 64,
        modules: Numbers = None,
    ) -> list[str]:
        """See `Backbone.generate`."""
        inputs = encode_texts(self.tokenizer, [row["input"] for row in examples], self.max_length, fields)
        known = n_positions(self.model)
        most = max_new_tokens if known is None else min(max_new_tokens, known - 1)
        return self.continued(inputs, most, modules=modules)
