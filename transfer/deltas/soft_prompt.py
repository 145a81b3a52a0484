"""Soft prompt: learned vectors in front of the embeddings of the text.

Source: Lester et al. 2021, aclanthology.org/2021.emnlp-main.243, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from transfer.deltas.input_stack import embed, input_place, stack_of
from transfer.deltas.method import DeltaMethod, generator_for
from transfer.deltas.modules import named_modules
from transfer.deltas.site import Site
from transfer.deltas.soft_prompt_site import SoftPromptSite
from transfer.errors import ConfigError, DeltaError

INITS = ("random", "vocabulary")
BOUND = 0.5  # of the random start, as in the paper


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(DeltaMethod):
    """`length` learned vectors that the encoder, or the model, reads before its text.

    The text's positions follow those of the prompt. Hidden states and logits are those of the text: the prompt's are
    cut off again. An encoder-decoder is the exception: its decoder looks at what the encoder made of the prompt, so
    the encoder's own output keeps those rows, `length` of them in front.

    Args:
        length: Number of vectors, at least 1.
        init: "random", uniform in [-0.5, 0.5]; or "vocabulary", the embeddings of tokens drawn at random.
        where: Left empty, the input embeddings of the encoder or of the model. A model with several may be told by
            the name of one.
    """

    method: ClassVar[str] = "soft-prompt"
    learning_rate: ClassVar[float] = 3e-2
    prefix: ClassVar[str] = "prompt_"
    starts_bare: ClassVar[bool] = False

    length: int = 20
    init: str = "random"
    where: tuple[str, ...] = ()

    def check(self) -> None:
        if self.length < 1:
            raise ConfigError(f"length must be at least 1, got {self.length}")
        if self.init not in INITS:
            raise ConfigError(f"no init named {self.init!r}", found=", ".join(INITS))
        if self.exclude:
            raise ConfigError("a soft prompt has one place, so there is nothing to leave out with exclude=")

    def places(self, model: nn.Module) -> list[str]:
        if self.at is not None or self.where:
            return super().places(model)
        return [input_place(model)]

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width = getattr(module, "embedding_dim", None)
        if not isinstance(width, int):
            raise DeltaError(
                f"a soft prompt cannot be put on {place!r}",
                found=f"a {type(module).__name__}, which is no embedding of tokens",
                hint="leave where= out: it finds the input embeddings",
            )
        return {"prompt_embeddings": (self.length, width)}

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        tensor.uniform_(-BOUND, BOUND, generator=generator)

    def draw(self, model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
        start = super().draw(model, seed)
        if self.init == "random":
            return start
        modules, device = named_modules(model), next(model.parameters()).device
        for place in self.places(model):
            name = f"{place}.prompt_embeddings"
            size: int = modules[place].num_embeddings  # type: ignore[assignment]
            ids = torch.randint(size, (self.length,), generator=generator_for(seed, name))
            with torch.no_grad():
                rows = embed(modules[stack_of(model, place)], ids.to(device))
            start[name] = rows.cpu().half().float()
        return start

    def start_settings(self, model: nn.Module) -> dict[str, Any]:
        settings = super().start_settings(model)
        return settings if self.init == "random" else {**settings, "init": self.init}

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return SoftPromptSite(place, tensors, model, stack_of(model, place))
