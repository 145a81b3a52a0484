"""Decoder-only models (GPT-2, Llama, Qwen): the input is the prompt, masked out of the loss."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from transfer.backbones.backbone import Example
from transfer.backbones.carrier import Numbers
from transfer.backbones.encoder import mean_pool
from transfer.backbones.encoding import Encoded, encode_texts, pad, with_modules
from transfer.backbones.fingerprints import base_of
from transfer.backbones.generative import IGNORED, GenerativeBackbone, answers, token_log_likelihood
from transfer.backbones.positions import n_positions, positions_taken
from transfer.errors import ConfigError

ANSWER_MARK = "\nanswer:"  # stands between prompt and answer, so that a task's inputs need no ending of their own


class CausalBackbone(GenerativeBackbone):
    """Scores a choice as the continuation of the prompt."""

    kind = "causal"

    def encode(self, examples: Iterable[Example], fields: Sequence[str] = ()) -> list[Encoded]:
        """See `Backbone.encode`. A prompt and its longest choice together have at most `max_length` tokens."""
        rows = list(examples)
        candidates = [answers(row) for row in rows]
        known = self._known([text for found, _ in candidates for text in found])
        room = [self.max_length - max((len(known[text]) for text in found), default=0) for found, _ in candidates]
        return [
            Encoded(ids, [known[text] for text in found], label)
            for ids, (found, label) in zip(self._prompts(rows, room, fields), candidates, strict=True)
        ]

    def _prompts(self, rows: Sequence[Example], room: Sequence[int], fields: Sequence[str]) -> list[list[int]]:
        """Each input and the mark after it, in at most `room` tokens.

        Raises:
            ConfigError: `max_length` is too small for that.
        """
        mark = self.tokenizer(ANSWER_MARK, add_special_tokens=False)["input_ids"]
        budgets = [most - len(mark) for most in room]
        if budgets and min(budgets) < 1:
            raise ConfigError(
                f"max_length {self.max_length} leaves no token for the input", hint=f"at least {2 * len(mark) + 16}"
            )
        # A tokenizer that ends every text with an end token (some Llama ones) would put it before the answer.
        end = self.tokenizer.eos_token_id
        prompts = []
        for ids in encode_texts(self.tokenizer, [row["input"] for row in rows], budgets, fields):
            ended = len(ids) > 1 and end is not None and ids[-1] == end
            prompts.append([*(ids[:-1] if ended else ids), *mark])
        return prompts

    def _known(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """The tokens of each choice, at most half of `max_length`."""
        unique = sorted(set(texts))
        end = self.tokenizer.eos_token_id
        most = self.max_length // 2 - (end is not None)
        encoded = encode_texts(self.tokenizer, [f" {text}" for text in unique], most, special=False)
        return {text: ([*ids, end] if end is not None else ids) for text, ids in zip(unique, encoded, strict=True)}

    def collate(self, encoded: Sequence[Encoded], train: bool = False) -> dict[str, Any]:
        """See `Backbone.collate`. The prompt is repeated before every choice; padding stands right."""
        rows, tokens, index, labels = self.pairs(encoded, train)
        prompts = [encoded[row].input for row in rows]
        pad_id = self.tokenizer.pad_token_id
        ids, mask = pad([[*prompt, *choice] for prompt, choice in zip(prompts, tokens, strict=True)], pad_id)
        targets = torch.full_like(ids, IGNORED)
        for number, (prompt, choice) in enumerate(zip(prompts, tokens, strict=True)):
            # The state at a token predicts the next one, so targets stand one to the left.
            targets[number, len(prompt) - 1 : len(prompt) - 1 + len(choice)] = torch.tensor(choice, dtype=torch.long)
        return {
            "input": with_modules({"input_ids": ids, "attention_mask": mask}, [encoded[row].module for row in rows]),
            "choices": {"targets": targets, "index": index},
            "labels": labels,
        }

    def forward(self, *, input: Any = None, choices: Any = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """See `Backbone.forward`."""
        model: Any = self.model
        targets = choices["targets"]
        options = {}
        if targets.numel() and "logits_to_keep" in inspect.signature(model.forward).parameters:
            # Logits of the prompt are not looked at, and over a large vocabulary they are most of the memory.
            first = int((targets != IGNORED).any(dim=0).int().argmax())
            targets = targets[:, first:]
            options = {"logits_to_keep": targets.shape[1]}
        with self.autocast(), self.routed(input.get("modules")):
            logits = model(
                input_ids=input["input_ids"], attention_mask=input["attention_mask"], use_cache=False, **options
            ).logits
        return self.answer(token_log_likelihood(logits, targets), choices["index"], labels)

    def pooled_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """See `Backbone.pooled_states`: of the last layer."""
        ids, mask = pad(rows, self.tokenizer.pad_token_id)
        batch = self.to_device({"input_ids": ids, "attention_mask": mask})
        base: Any = base_of(self.model)
        with self.autocast():
            return mean_pool(base(**batch, use_cache=False).last_hidden_state, batch["attention_mask"])

    def generate(
        self,
        examples: Iterable[Example],
        fields: Sequence[str] = (),
        max_new_tokens: int = 64,
        modules: Numbers = None,
    ) -> list[str]:
        """See `Backbone.generate`. Where positions run out, a long prompt is cut to leave room for the output."""
        rows = list(examples)
        room, known = self.max_length, n_positions(self.model)
        if known is not None:
            known -= positions_taken(self._deltas())
            max_new_tokens = min(max_new_tokens, known // 2)
            room = min(room, known - max_new_tokens)
        prompts = self._prompts(rows, [room] * len(rows), fields)
        return self.continued(prompts, max_new_tokens, left=True, modules=modules)
