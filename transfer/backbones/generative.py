"""What seq2seq and causal backbones share: a choice is scored by the mean log-likelihood of its tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from transfer.backbones.backbone import Backbone, Example
from transfer.backbones.carrier import Numbers
from transfer.backbones.encoding import Encoded, buckets, label_of, pad
from transfer.errors import ConfigError

IGNORED = -100  # the target id that counts for nothing, as in torch and transformers


def answers(row: Example) -> tuple[list[str], int]:
    """The candidate outputs of a row and the index of the right one, -1 if unknown."""
    if "choices" in row:
        return list(row["choices"]), label_of(row)
    output = row.get("output")
    return ([] if output is None else [str(output)]), (-1 if output is None else 0)


def token_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean log-likelihood of each row's target tokens. logits: (rows, length, vocabulary); targets: (rows, length)."""
    losses = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), targets, reduction="none", ignore_index=IGNORED
    )
    return -losses.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp_min(1)


class GenerativeBackbone(Backbone):
    """The loss is the mean token cross-entropy of the right answer; logits are mean token log-likelihoods."""

    @property
    def first_token(self) -> int | None:
        """The id that a decoder begins with; None where the prompt is continued."""
        return None

    def rows_at_once(self, columns: int) -> int:
        """See `Backbone.rows_at_once`: every choice is a row of the forward pass, with logits over the vocabulary."""
        return max(1, self.batch_size // max(columns, 1))

    def pairs(self, encoded: Sequence[Encoded], train: bool) -> tuple[list[int], list[list[int]], Tensor, Tensor]:
        """Every (row, choice) that has to be read.

        Returns:
            The row of each pair, the choice's tokens of each pair, index (rows, choices) from a row's choice to its
            pair (-1 is none), and labels (rows,). When training only the right choice of each row is kept, in column 0.
        """
        rows: list[int] = []
        tokens: list[list[int]] = []
        columns = 1 if train else max((len(row.choices) for row in encoded), default=0)
        index = torch.full((len(encoded), columns), -1, dtype=torch.long)
        labels = torch.zeros(len(encoded), dtype=torch.long)
        for number, row in enumerate(encoded):
            kept = [row.choices[row.label]] if train else row.choices
            if not train:
                labels[number] = row.label
            for column, choice in enumerate(kept):
                index[number, column] = len(rows)
                rows.append(number)
                tokens.append(choice)
        return rows, tokens, index, labels

    @staticmethod
    def answer(scores: Tensor, index: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """The result of `forward` from the score of each pair (pairs,)."""
        logits = scores[index.clamp_min(0)].masked_fill(index < 0, -torch.inf)
        if labels is None:
            return {"logits": logits}
        losses = -logits.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
        return {"loss": losses.mean(), "losses": losses, "logits": logits}

    def continued(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, left: bool = False, modules: Numbers = None
    ) -> list[str]:
        """Greedy output for each prompt. With `left`, padding stands left and the prompt is taken off the output.

        Raises:
            ConfigError: `max_new_tokens` is too small.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        pad_id = self.tokenizer.pad_token_id
        result = [""] * len(prompts)
        with self.scoring(), self.autocast(), self._greedy(max_new_tokens) as settings:
            for index in buckets([len(row) for row in prompts], self.batch_size):
                ids, mask = pad([prompts[i] for i in index], pad_id, left=left)
                with self.routed(None if modules is None else [modules[i] for i in index]):
                    found = self.model.generate(  # type: ignore[operator]
                        **self.to_device({"input_ids": ids, "attention_mask": mask}),
                        generation_config=settings,
                    )
                found = found[:, ids.shape[1] :] if left else found
                texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
                for place, text in zip(index, texts, strict=True):
                    result[place] = text.strip()
        return result

    @contextlib.contextmanager
    def _greedy(self, max_new_tokens: int) -> Iterator[GenerationConfig]:
        """Greedy decoding that begins and ends as in training; inside the block the model has no settings of its own.

        Those would fill in whatever is None here: a forced first token, say, or words that are held back.
        """
        model: Any = self.model
        own = model.generation_config
        known = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted({self.tokenizer.eos_token_id, *known} - {None}) or None,
            decoder_start_token_id=self.first_token,
        )
        model.generation_config = settings
        try:
            yield settings
        finally:
            model.generation_config = own
