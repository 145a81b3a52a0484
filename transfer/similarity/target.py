"""Target: what estimators may see of the target task, with what several of them need computed once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.deltas import METHODS
from transfer.deltas.method import DeltaMethod
from transfer.errors import DataError
from transfer.similarity.capture import tensor_gradients
from transfer.similarity.factors import differences, in_weight_space
from transfer.similarity.signatures import drawn, embed_bare, gradient_sketch
from transfer.similarity.sketch import sketch_tensors
from transfer.similarity.switching import method_of, over_modules
from transfer.tasks import Task
from transfer.training import Tuned, TuneSettings, tune
from transfer.training.measuring import Measured, measure
from transfer.training.settings import check_seed
from zoo import Module

MOST_EXAMPLES = 256  # training examples that estimators look at; more would cost time and hardly change a score
SCRATCH_STEPS = 20  # of the short tune from the shared start, which the guard reads too
SHORT_STEPS = 10  # of a tune of every module, for the estimators that need one
BATCH_SIZE = 16

ModuleKey: TypeAlias = tuple[str, str]  # id and settings: an id says which tensors, not what they mean


class ShortTune(NamedTuple):
    """What is kept of a short tune from a module; the tensors of a thousand would fill the memory."""

    drift: float  # mean over tensors of the norm of their change
    held_out: Measured  # on the half of the sample that it did not see


class Target:
    """A target task on a backbone, through its training examples alone: dev is kept for choices, test for reports.

    Args:
        task: The target.
        backbone: Left as it was found by everything here.
        method: What the modules are made of, with their settings.
        start: The shared start of the modules: canonical name -> tensor. None draws the method's own.
        seed: Of the draw of examples and of short tunes, at least 0 and below 2**32.
    Raises:
        ConfigError: the seed is outside its range.
        DataError: the task has no training examples, or one without a label.
    """

    def __init__(
        self,
        task: Task,
        backbone: Backbone,
        method: DeltaMethod,
        start: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        check_seed(seed)
        self.task = task
        self.backbone = backbone
        self.method = method
        self.start = method.draw(backbone.model) if start is None else {n: t.float() for n, t in start.items()}
        self.seed = seed
        self._scratch: dict[TuneSettings, Tuned] = {}
        self._along: dict[TuneSettings, tuple[Sequence[Encoded], int]] = {}
        self._short: dict[tuple[ModuleKey, int], ShortTune] = {}
        self._outputs: dict[ModuleKey, tuple[Tensor, Tensor]] = {}
        self._losses: dict[ModuleKey, Tensor] = {}
        self._gradients: dict[DeltaMethod, dict[str, Tensor]] = {}
        self._sketches: dict[tuple[str, ...], np.ndarray] = {}
        if not len(task.train):
            raise DataError(f"task {task.name!r} has no training examples", hint="a task with a train split")

    @classmethod
    def for_modules(
        cls,
        task: Task,
        backbone: Backbone,
        modules: Sequence[Module],
        method: str | DeltaMethod = "lora",
        seed: int = 0,
    ) -> Target:
        """A target with the settings and the start that most of the modules share.

        Args:
            task: The target.
            backbone: What the modules fit.
            modules: The sources; may be empty.
            method: A name, then the settings are those of most modules (modules with a known start go first);
                or a method with settings, then the start is one of its shapes.
            seed: As above.
        """
        wanted = None if isinstance(method, str) else method
        shapes = None if wanted is None else wanted.shapes(backbone.model)
        votes: Counter[tuple[bool, str, str]] = Counter()
        first: dict[tuple[bool, str, str], Module] = {}
        for module in sorted(modules, key=lambda module: module.id):
            settings = json.dumps(module.card.settings, sort_keys=True)
            key = (module.card.start is not None, module.card.start or "", settings)
            votes[key] += 1
            first.setdefault(key, module)
        for key in sorted(votes, key=lambda key: (not key[0], -votes[key], key)):
            start = first[key].start()
            if shapes is not None and (start is None or {n: tuple(t.shape) for n, t in start.items()} != shapes):
                continue
            chosen = method_of(first[key]) if wanted is None else wanted
            return cls(task, backbone, chosen, None if start is None else dict(start), seed)
        return cls(task, backbone, METHODS.get(method)() if isinstance(method, str) else method, None, seed)

    # ---- the examples

    @cached_property
    def encoded(self) -> list[Encoded]:
        """All training examples, tokenised."""
        return self._encoded(self.task.train)

    @cached_property
    def sample(self) -> list[Encoded]:
        """The training examples that estimators look at: all of them, or 256 drawn with the seed."""
        if len(self._drawn) == len(self.task.train):
            return self.encoded
        return self._encoded(self.task.train.select(self._drawn))  # the rest need not be tokenised

    def _encoded(self, examples: Dataset) -> list[Encoded]:
        rows = self.backbone.encode(examples, self.task.fields)
        if any(row.label < 0 for row in rows):
            raise DataError(f"a training example of task {self.task.name!r} has no label")
        return rows

    @cached_property
    def _drawn(self) -> list[int]:
        return sorted(int(index) for index in drawn(len(self.task.train), MOST_EXAMPLES, self.seed))

    @cached_property
    def halves(self) -> tuple[list[Encoded], list[Encoded]]:
        """The sample in two halves of about equal labels, for a short tune and for measuring it.

        A single example stands in both.
        """
        order = sorted(
            (int(i) for i in np.random.default_rng(self.seed).permutation(len(self.sample))),
            key=lambda index: self.sample[index].label,
        )
        parts = [self.sample[index] for index in order[::2]], [self.sample[index] for index in order[1::2]]
        return parts if parts[1] else (parts[0], parts[0])

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Embeddings of the sample's inputs on the bare backbone: (n, width), unit length."""
        return embed_bare(self.backbone, self.sample_inputs, self.task.fields)

    @cached_property
    def sample_inputs(self) -> list[str]:
        """Texts of the sample's inputs."""
        inputs = self.task.train["input"]
        return [inputs[index] for index in self._drawn]

    # ---- gradients at the shared start

    def gradient(self, method: DeltaMethod | None = None) -> dict[str, Tensor]:
        """Gradient of the mean loss by the delta's tensors at the shared start: canonical name -> gradient.

        Args:
            method: What gives the tensors their meaning; of the same names and shapes. None is the target's own.
        """
        chosen = self.method if method is None else method
        if chosen not in self._gradients:
            self._gradients[chosen] = tensor_gradients(self.backbone, chosen, self.start, self.sample)
        return self._gradients[chosen]

    def gradient_sketch(self, method: DeltaMethod | None = None) -> np.ndarray:
        """Sketch of the gradient, comparable with those in signatures of modules of the same places: (1024,).

        Args:
            method: That of what it is compared with: for a LoRA its places count. None is the target's own method.
        """
        chosen = self.method if method is None else method
        if not in_weight_space(chosen):
            return sketch_tensors(self.gradient(chosen)).numpy()
        places = tuple(sorted(chosen.places(self.backbone.model)))
        if places not in self._sketches:
            self._sketches[places] = gradient_sketch(self.backbone, chosen, self.start, self.sample).numpy()
        return self._sketches[places]

    # ---- short tunes

    def scratch_tune(self, steps: int = SCRATCH_STEPS, batch_size: int = BATCH_SIZE) -> Tuned:
        """A short tune from the shared start on all training examples; made once for each length."""
        settings = TuneSettings(steps=steps, batch_size=batch_size, seed=self.seed)
        if settings not in self._scratch:
            dev, every = self._along.get(settings, (None, None))
            self._scratch[settings] = tune(
                self.backbone,
                self.method,
                self.encoded,
                tensors=self.start,
                settings=replace(settings, eval_every=every),
                dev=dev,
                keep="last",
                description="tuning from scratch",
            )
        return self._scratch[settings]

    def measure_scratch(
        self, dev: Sequence[Encoded], every: int, steps: int = SCRATCH_STEPS, batch_size: int = BATCH_SIZE
    ) -> None:
        """Let the scratch tune of this length, if it is still to be made, measure dev on the way: its `history`.

        Its tensors, which are all that estimators look at, are the same with and without.
        """
        self._along[TuneSettings(steps=steps, batch_size=batch_size, seed=self.seed)] = dev, every

    def tune_from(self, module: Module, steps: int = SHORT_STEPS) -> ShortTune:
        """A short tune from a module on the first half of the sample; made once, for whoever needs it."""
        key = _key(module), steps
        if key not in self._short:
            start, method = dict(module.tensors(dtype=torch.float32)), method_of(module)
            tuned = tune(
                self.backbone,
                method,
                self.halves[0],
                tensors=start,
                settings=TuneSettings(steps=steps, batch_size=BATCH_SIZE, seed=self.seed),
                description=f"tuning from {module.id}",
            )
            with self.backbone.use(method, tuned.tensors):
                found = measure(self.backbone, self.halves[1])
            change = differences(tuned.tensors, start)
            self._short[key] = ShortTune(float(np.mean([float(c.double().norm()) for c in change.values()])), found)
        return self._short[key]

    # ---- what modules answer

    def outputs(self, modules: Sequence[Module]) -> list[tuple[Tensor, Tensor]]:
        """For each module its logits (n, choices) and losses (n,) on the sample, kept for the next estimator."""
        missing = [module for module in modules if _key(module) not in self._outputs]
        found = over_modules(self.backbone, missing, lambda attached, module: self.backbone.outputs(self.sample))
        self._outputs.update(zip(map(_key, missing), found, strict=True))
        return [self._outputs[_key(module)] for module in modules]

    def losses(self, modules: Sequence[Module]) -> list[Tensor]:
        """For each module the loss of every example of the sample (n,), as training has it.

        Costs less than `outputs` where wrong choices are no part of the loss (seq2seq, causal).
        """
        self._losses |= {key: losses for key, (_, losses) in self._outputs.items()}
        missing = [module for module in modules if _key(module) not in self._losses]
        found = over_modules(self.backbone, missing, lambda attached, module: self._training_losses())
        self._losses.update(zip(map(_key, missing), found, strict=True))
        return [self._losses[_key(module)] for module in modules]

    @torch.inference_mode()
    def _training_losses(self) -> Tensor:
        backbone = self.backbone
        losses = torch.empty(len(self.sample))
        training = backbone.training
        backbone.eval()
        try:
            for index, batch in backbone.batches(self.sample, BATCH_SIZE):
                found = backbone(**backbone.to_device(backbone.collate(batch, train=True)))["losses"]
                losses[torch.from_numpy(index)] = found.float().cpu()
        finally:
            backbone.train(training)
        return losses


def _key(module: Module) -> ModuleKey:
    return module.id, json.dumps(module.card.settings, sort_keys=True)
