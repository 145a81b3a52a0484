"""One tune of one delta on one task, by the Trainer of transformers."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.errors import ConfigError, DataError
from transfer.progress import track
from transfer.training.measuring import measure
from transfer.training.sampling import LengthBatches
from transfer.training.settings import TuneSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """A tuned delta and how it went.

    `history` has a row per measurement on dev: {"step", "loss", "accuracy"}; step 0 is the start itself.
    With dev, `tensors` are those of the step with the lowest dev loss, which may be step 0.
    """

    tensors: dict[str, Tensor]
    history: list[dict[str, float]]
    best_step: int
    steps: int
    seconds: float
    settings: TuneSettings = field(repr=False)


def tune(
    backbone: Backbone,
    method: Any,
    train: Sequence[Encoded],
    *,
    tensors: Mapping[str, Tensor],
    settings: TuneSettings | None = None,
    dev: Sequence[Encoded] | None = None,
    keep: str = "best",
    folder: Path | None = None,
    description: str = "tuning",
) -> Tuned:
    """Tune a delta from `tensors` on encoded training examples.

    Args:
        backbone: Left as it was found: what is attached now comes back afterwards.
        method: A `DeltaMethod`, such as `LoRA()`.
        train: Encoded examples with labels.
        tensors: The start, by canonical name.
        settings: Steps, learning rate, batch size, seed.
        dev: Encoded examples to measure on; without them the last step is kept.
        keep: "best" keeps the step with the lowest dev loss, "last" the last step.
        folder: Where checkpoints go. A run that was killed goes on from the last one when called again with the
            same folder and settings. None keeps nothing.
        description: Of the progress bar.
    Raises:
        DataError: there is nothing to train on, or a row has no label.
        ConfigError: the folder holds a run with other settings, or the loss is no longer finite.
    """
    settings = settings or TuneSettings()
    if not train:
        raise DataError("there are no training examples", hint="a task with a train split, or a larger --examples")
    if any(row.label < 0 for row in train):
        raise DataError("a training example has no label", hint="give every row of the train split its label")
    if dev is not None and not dev:
        dev = None
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_state_kept())
        attached = stack.enter_context(backbone.use(method, tensors))
        if folder is None:
            where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transfer-tune-")))
        else:
            where = folder
            _check_same_run(where, method, settings, len(train))
        progress = stack.enter_context(track(description, settings.steps))
        trainer = _trainer(backbone, method, train, dev, settings, where, keep, checkpoints=folder is not None)
        trainer.add_callback(_Progress(progress))
        last = get_last_checkpoint(str(where)) if folder is not None else None
        with warnings_quiet():
            trainer.train(resume_from_checkpoint=last)
        history = [
            {"step": row["step"], "loss": row["eval_loss"], "accuracy": row["eval_accuracy"]}
            for row in trainer.state.log_history
            if "eval_loss" in row
        ]
        result = {name: value.detach().float().cpu().clone() for name, value in attached.state_dict().items()}
    if not all(bool(torch.isfinite(value).all()) for value in result.values()):
        raise ConfigError("the tune diverged: a tensor is no longer finite", hint="a smaller --learning-rate")
    best = min(history, key=lambda row: (row["loss"], row["step"])) if history else {"step": trainer.state.global_step}
    if history and keep == "best" and best["step"] == 0:
        result = {name: value.detach().float().cpu().clone() for name, value in tensors.items()}
    return Tuned(
        tensors=result,
        history=history,
        best_step=int(best["step"]),
        steps=int(trainer.state.global_step),
        seconds=time.perf_counter() - begun,
        settings=settings,
    )


class _TuneTrainer(Trainer):
    """A Trainer over encoded examples: batches by length, measured by `measure`."""

    def __init__(self, *args: Any, dev: Sequence[Encoded] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dev = dev

    def get_train_dataloader(self) -> DataLoader[Any]:
        rows: Any = self.train_dataset
        batches = LengthBatches([row.length for row in rows], self.args.train_batch_size, self.args.seed)
        loader: DataLoader[Any] = DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        assert self.dev is not None
        found = measure(self.model, self.dev)  # type: ignore[arg-type]
        metrics = {"eval_loss": found.loss, "eval_accuracy": found.accuracy}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Progress(TrainerCallback):
    def __init__(self, report: Any) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step)


def _trainer(
    backbone: Backbone,
    method: Any,
    train: Sequence[Encoded],
    dev: Sequence[Encoded] | None,
    settings: TuneSettings,
    folder: Path,
    keep: str,
    checkpoints: bool,
) -> _TuneTrainer:
    every = min(settings.eval_every or settings.steps, settings.steps)
    # "best" needs the checkpoint of the best step; these are a few hundred kilobytes, the delta only.
    saves = checkpoints or (dev is not None and keep == "best")
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate or method.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        eval_strategy="no" if dev is None else "steps",
        eval_steps=every,
        eval_on_start=dev is not None,
        save_strategy="steps" if saves else "no",
        save_steps=every,
        save_total_limit=1,
        load_best_model_at_end=dev is not None and keep == "best",
        metric_for_best_model="loss" if dev is not None else None,
        greater_is_better=False if dev is not None else None,
        label_names=["labels"],
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=backbone.device.type == "cpu",
        dataloader_pin_memory=False,
    )
    trainer = _TuneTrainer(
        model=backbone,
        args=arguments,
        train_dataset=list(train),  # type: ignore[arg-type]
        # The Trainer asks for one when it is to evaluate; `evaluate` above reads `dev`.
        eval_dataset=list(dev) if dev is not None else None,  # type: ignore[arg-type]
        data_collator=lambda rows: backbone.collate(rows, train=True),
        dev=dev,
    )
    trainer.remove_callback(PrinterCallback)
    if settings.patience is not None and dev is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=settings.patience))
    return trainer


def _check_same_run(folder: Path, method: Any, settings: TuneSettings, n_train: int) -> None:
    """Leave a note of the settings in the folder, or hold these against the note that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "run.json"
    mine = {"method": method.method, "settings": method.settings(), "tune": settings.__dict__, "n_train": n_train}
    text = json.dumps(mine, sort_keys=True, default=str)
    if note.exists():
        if note.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{folder} holds an unfinished run with other settings",
                hint=f"another --out, or delete {folder} to begin again",
            )
        return
    note.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """The Trainer seeds every global generator; the caller's streams go on as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def warnings_quiet() -> Iterator[None]:
    """Hide what the Trainer says about itself; errors are raised as ever."""
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
