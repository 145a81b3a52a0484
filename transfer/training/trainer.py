"""The Trainer of transformers, made to know encoded examples and the calibrated dev loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from transfer.backbones.backbone import Backbone
from transfer.backbones.encoding import Encoded
from transfer.errors import BackboneError
from transfer.training.measuring import measure
from transfer.training.run_folder import Best, Snapshots
from transfer.training.sampling import LengthBatches
from transfer.training.settings import TuneSettings

SAVE_EVERY = 25  # steps between checkpoints at most: what a kill can cost
OWN = "trained_apart"  # names a group of the optimiser by the local name of its tensors
MEASURED = ("loss", "calibrated", "accuracy")  # of each look at dev; accuracy only where there is something to choose


class Pull:
    """strength / 2 times the squared distance of a delta from its start, as a part of the loss.

    Source: Li et al. 2018, arxiv.org/abs/1802.01483 (L2-SP).
    """

    def __init__(self, attached: Any, start: Mapping[str, Tensor], strength: float) -> None:
        self._attached, self._strength = attached, strength
        self._start = {name: start[name].detach().to(tensor) for name, tensor in attached.named_tensors()}

    def __call__(self) -> Tensor:
        """The penalty, a scalar that can be differentiated."""
        named = dict(self._attached.named_tensors())
        squares = [(tensor - self._start[name]).square().sum() for name, tensor in named.items()]
        return self._strength / 2 * torch.stack(squares).sum()


class TuneTrainer(Trainer):
    """A Trainer over encoded examples: batches by length, measured by `measure`."""

    control: Any

    def __init__(
        self, *args: Any, dev: Sequence[Encoded] | None, best: Best | None, pull: Pull | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.dev = dev
        self.best = best
        self.pull = pull

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of about equal lengths."""
        rows: Any = self.train_dataset
        batches = LengthBatches([row.length for row in rows], self.args.train_batch_size, self.args.seed)
        loader: DataLoader[Any] = DataLoader(rows, batch_sampler=batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's own, with what the delta trains at a rate of its own in groups of their own."""
        fresh = self.optimizer is None
        optimizer: Any = super().create_optimizer(model)
        backbone: Any = self.model
        if not fresh or backbone.delta is None:
            return optimizer  # type: ignore[no-any-return]
        for name, rate in backbone.delta.method.own_rates(self.args.learning_rate).items():
            own = [p for full, p in backbone.delta.named_parameters() if full.endswith(f".{name}")]
            ids = {id(parameter) for parameter in own}
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0, OWN: name})
        return optimizer  # type: ignore[no-any-return]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The task's loss, what the delta adds to it, and the pull towards the start where there is one."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        backbone: Any = self.model
        more = None if backbone.delta is None else backbone.delta.method.loss(backbone.delta)
        loss = loss if more is None else loss + more
        loss = loss if self.pull is None else loss + self.pull()
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        """Measure dev, and remember the delta if it is the best so far."""
        assert self.dev is not None
        backbone: Any = self.model
        found = measure(backbone, self.dev)
        measured = {**found.metrics(), "calibrated": found.calibrated_loss}
        metrics = {f"eval_{name}": measured[name] for name in MEASURED if name in measured}
        if self.best is not None:
            self.best.offer(self.state.global_step, found.calibrated_loss, backbone.state_dict())
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def make_trainer(
    backbone: Backbone,
    learning_rate: float,
    train: Sequence[Encoded],
    dev: Sequence[Encoded] | None,
    settings: TuneSettings,
    folder: Path,
    *,
    best: Best | None,
    pull: Pull | None = None,
    snapshots: Snapshots | None = None,
    checkpoints: bool,
    fresh: bool,
    report: Callable[[int], None],
) -> TuneTrainer:
    """A Trainer for one tune. `fresh` is False for a run that goes on: its first measurement was made already.

    Raises:
        BackboneError: the backbone is on a device that the Trainer would take it away from.
    """
    every = min(settings.eval_every or settings.steps, settings.steps)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        eval_strategy="no" if dev is None else "steps",
        eval_steps=every,
        eval_on_start=dev is not None and fresh,
        save_strategy="steps" if checkpoints else "no",
        save_steps=min(every, SAVE_EVERY),
        save_total_limit=1,
        label_names=["labels"],
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=backbone.device.type == "cpu",
        dataloader_pin_memory=False,
    )
    _check_device(backbone.device, arguments.device)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else the Trainer splits every batch over all cards, and the batch size changes
    trainer = TuneTrainer(
        model=backbone,
        args=arguments,
        train_dataset=list(train),  # type: ignore[arg-type]
        # The Trainer asks for one when it is to evaluate; `evaluate` above reads `dev`.
        eval_dataset=list(dev) if dev is not None else None,  # type: ignore[arg-type]
        data_collator=lambda rows: backbone.collate(rows, train=True),
        dev=dev,
        best=best,
        pull=pull,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_AfterStep(backbone))
    trainer.add_callback(_Progress(report))
    if snapshots is not None:
        trainer.add_callback(_Snap(snapshots, backbone, every))
    if settings.patience is not None and dev is not None:
        trainer.add_callback(_Patience(settings.patience))
    return trainer


def _check_device(own: torch.device, trained_on: torch.device) -> None:
    """The Trainer moves a model to the first card that it sees, and leaves it there."""
    if (own.type, own.index or 0) == (trained_on.type, trained_on.index or 0):
        return
    shown = f"CUDA_VISIBLE_DEVICES={own.index} in the environment, with device='cuda'"
    raise BackboneError(
        f"a backbone on {own} cannot be tuned there",
        found=f"the Trainer of transformers works on {trained_on}",
        hint=shown if own.type == "cuda" else f"load_backbone(..., device={trained_on.type!r})",
    )


class _AfterStep(TrainerCallback):
    """Hands the delta over to its method after each step of the optimiser, before the rates go on."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        attached = self.backbone.delta
        if attached is not None:
            rates = {group[OWN]: group["lr"] for group in kwargs["optimizer"].param_groups if OWN in group}
            attached.method.after_step(attached, rates)


class _Progress(TrainerCallback):
    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step)


class _Snap(TrainerCallback):
    """Keeps a copy at every look at dev and at the last step; before the checkpoint of that step is written."""

    def __init__(self, snapshots: Snapshots, backbone: Backbone, every: int) -> None:
        self.snapshots, self.backbone, self.every = snapshots, backbone, every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self.snapshots.offer(int(state.global_step), self.backbone.state_dict())


class _Patience(TrainerCallback):
    """Stops by the whole history on dev, step 0 among it; so a run that goes on stops where it would have.

    The EarlyStoppingCallback of transformers forgets its count when a run goes on, and leaves step 0 out.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if out_of_patience(history_of(state), self.patience):
            control.should_training_stop = True
        return control


def history_of(state: Any) -> list[dict[str, float]]:
    """{"step", "loss", "calibrated", "accuracy"} of each measurement on dev."""
    return [
        {"step": row["step"], **{name: row[f"eval_{name}"] for name in MEASURED if f"eval_{name}" in row}}
        for row in state.log_history
        if "eval_loss" in row
    ]


def best_row(history: Sequence[dict[str, float]]) -> int:
    """Place of the first row with the lowest calibrated loss, which is a number if any is; 0 if none is."""
    best = 0
    for place, row in enumerate(history):
        lowest = history[best]["calibrated"]
        if row["calibrated"] < lowest or lowest != lowest:
            best = place
    return best


def out_of_patience(history: Sequence[dict[str, float]], patience: int | None) -> bool:
    """True when the last `patience` measurements were no better than the best before them."""
    return patience is not None and bool(history) and len(history) - 1 - best_row(history) >= patience
