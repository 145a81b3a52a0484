"""A whole fine-tuning: from a start, on a target task, to a stored module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from transfer.backbones.backbone import Backbone
from transfer.cards import module_of
from transfer.deltas.delta import Delta
from transfer.deltas.method import DeltaMethod
from transfer.errors import ConfigError, SourceError
from transfer.evaluation import Evaluation, check_choices, check_split, evaluate
from transfer.keeping import KEEPS, KeepSettings, keep_start
from transfer.keeping.choosing import check_keep
from transfer.keeping.starts import check_share, mixing_sources
from transfer.keeping.work import OtherStart, Work
from transfer.similarity.sources import opened
from transfer.starts import scored_by, starting_point
from transfer.tasks import Task
from transfer.training.measuring import measure
from transfer.training.schedules import XiSchedule
from transfer.training.settings import TuneSettings
from transfer.training.sparsifying import Sparsified, sparsify
from transfer.training.tuning import Tuned, gradients_on, tune
from zoo import Module, ZooView

if TYPE_CHECKING:
    from transfer.initialization import Initialization
    from transfer.resolving import Start


@dataclass(frozen=True)
class Finetuned:
    """A tuned delta with what is known of it.

    `evaluations` has one per split that was measured: of the start and of the result. `sparsified` has the stages of a
    schedule of xi. `kept` says how the head start was kept and what was chosen: plain JSON, as the card has it.
    """

    task: Task
    delta: Delta
    tuned: Tuned = field(repr=False)
    before: Evaluation | None
    after: Evaluation
    start: str  # "scratch", or where the start came from
    module: Module = field(repr=False)
    sparsified: Sparsified | None = field(default=None, repr=False)
    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def pruned(self) -> Finetuned:
        """A SoRA as the plain LoRA of the ranks that are left; the measurements are those of the SoRA.

        Raises:
            DeltaError: it is no SoRA, or no rank is left.
        """
        from transfer.deltas.pruning import prune_module

        module = prune_module(self.module)
        return replace(self, delta=Delta.from_module(module), module=module)

    def check_fits(self, fingerprint: str, backbone_name: str, force: bool = False) -> None:
        """As `Module.check_fits`."""
        self.module.check_fits(fingerprint, backbone_name, force)

    def save(self, folder: Path | str, replace: bool = False) -> Path:
        """Write the module as a folder by itself; `peft` loads it where it knows the method.

        Raises:
            PathError: something is there, and `replace` is False or it is no module.
        """
        from zoo.writing import save_module

        return save_module(self.module, Path(folder), replace)


@gradients_on()
def finetune(
    target: Task | str,
    backbone: Backbone | None = None,
    start: Initialization | Finetuned | Delta | Module | Start | None = None,
    *,
    method: str | DeltaMethod = "lora",
    examples: int | None = None,
    steps: int = 60,
    learning_rate: float | None = None,
    batch_size: int = 16,
    seed: int = 0,
    eval_every: int | None = None,
    patience: int | None = 3,
    keep: str = "best",
    folds: int | None = None,
    others: Sequence[Initialization | Finetuned | Delta | Module | Start] = (),
    sources: Iterable[Module] | None = None,
    exclude: Iterable[str] = (),
    keep_settings: KeepSettings | None = None,
    folder: Path | str | None = None,
    zoo: Any = None,
    add_to: Any = None,
    split: str = "test",
    measure_start: bool = False,
    schedule: XiSchedule | None = None,
) -> Finetuned:
    """Fine-tune a delta on a target task and measure it.

    Args:
        target: A task, or a name that `load_task` knows.
        backbone: None loads the embedded one.
        start: Where training starts; None is scratch, the start that all modules of the method share.
        method: Only for scratch: a name or a method with settings.
        examples: Only for a target given by name: rows of train, and at most as many of dev.
        steps, learning_rate, batch_size, seed: As in `TuneSettings`.
        eval_every: Steps between measurements on dev; None is a sixth of `steps`.
        patience: Measurements without a better dev loss before stopping; None never stops.
        keep: "best" by calibrated dev loss, the start itself among the candidates, or "last"; or a way of keeping what
            the start knows, by name in `transfer.keeping.KEEPS`. All of them take scratch as the start, too.
        folds: Choose by cross-validation over train and dev together, then train on all of them.
        others: Further starts for "soup" and "greedy-soup"; they share the start draw, the method and the places.
        sources: For "mixing", "mixing-rest" and "auto": the modules that are mixed in; None takes those that an
            initialization scored, else those of `zoo`. Without any, "auto" tries its other ways.
        exclude: Task names and ids that are no sources, beside the target's own task.
        keep_settings: What the ways of keeping choose among.
        folder: For checkpoints: a killed run goes on from the last when called again with the same folder.
        zoo: Where the shared start is looked for: a `Zoo`, its folder, or several in one view; None is your zoo and the
            starter zoo, as for `initialize`.
        add_to: A `Zoo` that the result is added to, with its signature.
        split: What is measured at the end.
        measure_start: Measure that split before training, too.
        schedule: For SoRA: train at each xi of it in turn, from the last; `steps` are those of the first. With
            keep="best" the stage with the fewest parameters is taken whose dev accuracy is not below the first's.
    Raises:
        ConfigError, DataError, DeltaError: settings, data or start cannot be used.
    """
    from transfer.backbones import load_backbone
    from transfer.tasks import load_task

    task = load_task(target, examples=examples, seed=seed) if isinstance(target, str) else target
    check_split(task, split)
    check_choices(task, "train")
    backbone = backbone if backbone is not None else load_backbone()
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    check_keep(keep, len(task.train), len(task.dev), folds, len(others))
    if schedule is not None and (keep not in ("best", "last") or folds is not None):
        raise ConfigError(
            f"a schedule of xi does not go with keep={keep!r}" + ("" if folds is None else f" and folds={folds}"),
            hint="--keep best or --keep last, without --folds",
        )
    there: Any = opened(zoo)
    searched = ZooView([there] if add_to is None else [add_to, there])
    start = _held(start)
    begin = starting_point(start, method, backbone, searched)
    delta, named, shared = begin
    check_keep(keep, len(task.train), len(task.dev), folds, len(others), delta.method)
    further = [starting_point(_held(other), method, backbone, searched) for other in others]
    check_share([begin, *further], backbone)
    settings = TuneSettings(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        seed=seed,
        eval_every=max(1, steps // 6) if eval_every is None else eval_every,
        patience=patience,
    )
    modules: list[Module] = []
    origin: Mapping[str, Tensor] = {}
    way = KEEPS.get(keep)
    if way.sources:
        there = searched if sources is None else list(sources)
        among = None if sources is not None else scored_by(start)
        try:
            modules, origin = mixing_sources(begin, backbone, there, (task.name, *exclude), among)
        except SourceError:
            if not way.optional:
                raise
    before = evaluate(task, backbone, delta, split) if measure_start else None
    sparsified = None
    kept: dict[str, Any] = {}
    if schedule is None:
        work = Work(
            backbone=backbone,
            method=delta.method,
            start=delta.tensors,
            settings=settings,
            keep=keep_settings or KeepSettings(),
            others=[OtherStart(name, other.tensors) for other, name, _ in further],
            sources=modules,
            origin=origin,
            folder=None if folder is None else Path(folder),
            name=f"{task.name} from {named}",
        )
        tuned, kept = _tuned(work, task, keep, folds)
        result = Delta(delta.method, dict(tuned.tensors), delta.settings)
    else:
        sora: Any = delta.method
        sparsified = sparsify(
            backbone,
            sora,
            backbone.encode(task.train, task.fields),
            tensors=delta.tensors,
            schedule=schedule,
            dev=backbone.encode(task.dev, task.fields),
            settings=settings,
            folder=folder,
            description=f"{task.name} from {named}",
        )
        number = sparsified.sparsest() if keep == "best" else len(sparsified.stages) - 1
        tuned = sparsified.tuned(number)
        at = replace(sora, xi=sparsified.stages[number].xi)
        result = Delta(at, dict(tuned.tensors), at.settings(backbone.model))
        kept = {"name": keep, "chosen": f"stage {number + 1}", "folds": None, "steps": tuned.steps}
    after = evaluate(task, backbone, result, split)
    factor = _factor(task, backbone, result) if folds is None else None
    module = module_of(task, backbone, result, tuned, after, named, shared, add_to, kept, factor)
    return Finetuned(task, result, tuned, before, after, named, module, sparsified, kept)


def _factor(task: Task, backbone: Backbone, delta: Delta) -> float | None:
    """What `predict` multiplies the scores by; None where no dev examples with choices say."""
    dev = backbone.encode(task.dev, task.fields)
    if not dev or all(len(row.choices) < 2 for row in dev):
        return None
    with backbone.use(delta):
        return measure(backbone, dev).factor


def _tuned(work: Work, task: Task, keep: str, folds: int | None) -> tuple[Tuned, dict[str, Any]]:
    """The tune, and what is said of how the head start was kept."""
    train = work.backbone.encode(task.train, task.fields)
    dev = work.backbone.encode(task.dev, task.fields)
    if keep in ("best", "last") and folds is None:
        tuned = tune(
            work.backbone,
            work.method,
            train,
            tensors=work.start,
            settings=work.settings,
            dev=dev,
            keep=keep,
            folder=work.folder,
            description=work.name,
        )
        tuned = tuned if keep == "best" else replace(tuned, best_step=tuned.steps)
        about = {"name": keep, "chosen": f"step {tuned.best_step}", "folds": None, "steps": tuned.steps}
        return tuned, about
    found = keep_start(work, keep, train, dev, folds)
    number = found.chosen.rpartition("step ")[2]
    step = int(number) if number.isdigit() else found.steps
    return Tuned(found.tensors, found.history, step, found.steps, found.seconds, work.settings), found.about


def _held(start: Any) -> Any:
    return start.module if isinstance(start, Finetuned) else start
