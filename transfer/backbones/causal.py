"""Decoder-only models (GPT-2, Llama, Qwen): the input is the prompt, masked out of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from transfer.backbones.backbone import Example
from transfer.backbones.encoder import mean_pool
from transfer.backbones.encoding import Encoded, buckets, encode_texts, pad
from transfer.backbones.generative import IGNORED, GenerativeBackbone, answers, token_log_likelihood

ANSWER_MARK = "\nanswer:"  # stands between prompt and answer, so that a task's inputs need no ending of their own


class CausalBackbone(GenerativeBackbone):
    """Scores a choice as the continuation of the prompt."""

    kind = "causal"

    def encode(self, examples: Iterable[Example], fields: Sequence[str] = ()) -> list[Encoded]:
        """See `Backbone.encode`. Prompt and longest choice together have at most `max_length` tokens."""
        rows = list(examples)
        candidates = [answers(row) for row in rows]
        known = self._known([text for found, _ in candidates for text in found])
        mark = self.tokenizer(ANSWER_MARK, add_special_tokens=False)["input_ids"]
        longest = max((len(ids) for ids in known.values()), default=0)
        budget = max(self.max_length - longest - len(mark), 8)
        # A tokenizer that ends every text with an end token (some Llama ones) would put it before the answer.
        end = self.tokenizer.eos_token_id
        prompts = []
        for ids in encode_texts(self.tokenizer, [row["input"] for row in rows], budget, fields):
            if len(ids) > 1 and end is not None and ids[-1] == end:
                ids = ids[:-1]
            prompts.append([*ids, *mark])
        return [
            Encoded(ids, [known[text] for text in found], label)
            for ids, (found, label) in zip(prompts, candidates, strict=True)
        ]

    def _known(self, texts: Sequence[str]) -> dict[str, list[int]]:
        unique = sorted(set(texts))
        end = self.tokenizer.eos_token_id
        spaced = [f" {text}" for text in unique]
        encoded = encode_texts(self.tokenizer, spaced, max(self.max_length // 2, 1), special=False)
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
            "input": {"input_ids": ids, "attention_mask": mask},
            "choices": {"targets": targets, "index": index},
            "labels": labels,
        }

    def forward(self, *, input: Any = None, choices: Any = None, labels: Tensor | None = None) -> dict[str, Tensor]:
        """See `Backbone.forward`."""
        model: Any = self.model
        with self.autocast():
            logits = model(
                input_ids=input["input_ids"], attention_mask=input["attention_mask"], use_cache=False
            ).logits
        return self.answer(token_log_likelihood(logits, choices["targets"]), choices["index"], labels)

    def pooled_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """See `Backbone.pooled_states`: of the last layer."""
        ids, mask = pad(rows, self.tokenizer.pad_token_id)
        batch = self.to_device({"input_ids": ids, "attention_mask": mask})
        base: Any = getattr(self.model, str(self.model.base_model_prefix), self.model)
        with self.autocast():
            return mean_pool(base(**batch, use_cache=False).last_hidden_state, batch["attention_mask"])

    @torch.inference_mode()
    def generate(self, examples: Iterable[Example], fields: Sequence[str] = (), max_new_tokens: int = 64) -> list[str]:
        """See `Backbone.generate`. Prompts are padded on the left."""
        rows = [{"input": row["input"]} for row in examples]
        prompts = [row.input for row in self.encode(rows, fields)]
        result = [""] * len(prompts)
        for index in buckets([len(row) for row in prompts], self.batch_size):
            ids, mask = pad([prompts[i] for i in index], self.tokenizer.pad_token_id, left=True)
            with self.autocast():
                found = self.model.generate(  # type: ignore[operator]
                    **self.to_device({"input_ids": ids, "attention_mask": mask}),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=self.tokenizer.pad_token_id,
                )
            for place, text in zip(index, self.decode(found[:, ids.shape[1] :]), strict=True):
                result[place] = text
        return result
