"""Evaluation of a backbone, with or without a delta, on a split of a task."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transfer.backbones.backbone import Backbone
from transfer.errors import ConfigError, DataError
from transfer.tasks import Task
from transfer.training.measuring import measure

SPLITS = ("train", "dev", "test")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Evaluation:
    """Metrics on one split.

    `metrics` has loss, accuracy and macro_f1, or for generation loss, exact_match, token_f1 and rouge_l; `metric` names
    the task's own among them; `interval` is a 95% interval of `value`; `per_example` (n,) is what the mean is over:
    1.0 for a right answer, or the token F1 of an output.
    """

    task: str
    split: str
    n: int
    metric: str
    metrics: dict[str, float]
    interval: tuple[float, float]
    per_example: np.ndarray = field(repr=False)

    @property
    def value(self) -> float:
        """What `interval` is about: accuracy, or token F1 for generation."""
        return self.metrics["token_f1" if "token_f1" in self.metrics else "accuracy"]

    def to_json(self) -> dict[str, Any]:
        """All but the per-example results."""
        return {
            "task": self.task,
            "split": self.split,
            "n": self.n,
            "metric": self.metric,
            "metrics": self.metrics,
            "interval_95": list(self.interval),
        }


def evaluate(target: Task | str, backbone: Backbone, delta: Any = None, split: str = "test") -> Evaluation:
    """Measure a backbone on a split.

    Args:
        target: A task or its name.
        backbone: Left as it was found.
        delta: A `Delta`, an `Initialization`, a stored module, a `Finetuned`, or None for what is attached now
            (nothing, if nothing is).
        split: "train", "dev" or "test".
    Raises:
        ConfigError, DataError: as `check_split`.
        FingerprintError: the delta says that it was made for another backbone.
    """
    from transfer.resolving import as_delta
    from transfer.tasks import load_task

    task = load_task(target) if isinstance(target, str) else target
    check_split(task, split)
    rows = task.splits[split]
    resolved = as_delta(delta, backbone)
    if resolved is None:
        return _measured(task, backbone, rows, split)
    with backbone.use(resolved):
        return _measured(task, backbone, rows, split)


def check_split(task: Task, split: str) -> None:
    """Refuse a split that cannot be measured, before any work.

    Raises:
        ConfigError: no such split.
        DataError: it is empty, a row has no label, or there is nothing to choose.
    """
    if split not in SPLITS:
        raise ConfigError(f"no split {split!r}", found=", ".join(SPLITS), hint="--split test")
    rows = task.splits[split]
    if len(rows) == 0:
        raise DataError(f"the {split} split of {task.name!r} is empty", hint="--split " + _fullest(task))
    if not _labelled(task, rows):
        raise DataError(f"the {split} split of {task.name!r} has rows without a label", hint="transfer predict")
    check_choices(task, split)


def check_choices(task: Task, split: str) -> None:
    """Refuse a split whose rows all have one choice: any model would answer them right, and learn nothing from them.

    Raises:
        DataError: there is nothing to choose.
    """
    rows = task.splits[split]
    if task.kind != "generation" and len(rows) and all(len(choices) < 2 for choices in rows["choices"]):
        raise DataError(
            f"every row in the {split} split of {task.name!r} has one choice only: there is nothing to choose",
            hint="give each row all of its choices; texts to be written are a task of the kind 'generation'",
        )


def _labelled(task: Task, rows: Any) -> bool:
    """Whether every row says what is right: an output, or a label among its choices."""
    if task.kind == "generation":
        return "output" in rows.column_names and all(output is not None for output in rows["output"])
    if not {"choices", "label"} <= set(rows.column_names):
        return False
    pairs = zip(rows["choices"], rows["label"], strict=True)
    return all(label is not None and 0 <= label < len(choices) for choices, label in pairs)


def _fullest(task: Task) -> str:
    return max(task.sizes, key=lambda name: task.sizes[name])


def _measured(task: Task, backbone: Backbone, rows: Any, split: str) -> Evaluation:
    encoded = backbone.encode(rows, task.fields)
    found = measure(backbone, encoded)
    if task.kind != "generation":
        metrics = found.metrics()
        interval = wilson(int(found.correct.sum()), len(encoded))
        own = task.metric if task.metric in metrics else "accuracy"
        return Evaluation(task.name, split, len(encoded), own, metrics, interval, found.correct)
    outputs = backbone.generate(rows, task.fields)
    scores = text_scores(outputs, list(rows["output"]))
    metrics = {"loss": found.loss} | {name: float(values.mean()) for name, values in scores.items()}
    f1 = scores["token_f1"]
    error = 1.96 * float(f1.std(ddof=1)) / math.sqrt(len(f1)) if len(f1) > 1 else 0.5
    interval = (max(0.0, float(f1.mean()) - error), min(1.0, float(f1.mean()) + error))
    own = task.metric if task.metric in metrics else "token_f1"
    return Evaluation(task.name, split, len(encoded), own, metrics, interval, f1)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927), which stays within 0 and 1 and is honest for small n.

    >>> [round(edge, 3) for edge in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n < 1:
        raise ConfigError("an interval needs at least one example")
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def text_scores(outputs: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """exact_match and token_f1 after SQuAD's normalisation, and ROUGE-L's F-measure: (n,) each.

    Source:
        Rajpurkar et al. 2016 (SQuAD) for the first two; Lin 2004 for ROUGE-L, by the package rouge-score with stemming.

    >>> {name: values.tolist() for name, values in text_scores(["The cat."], ["a cat"]).items()}["exact_match"]
    [1.0]
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    pairs = list(zip(outputs, references, strict=True))
    return {
        "exact_match": np.array([float(_normal(a) == _normal(b)) for a, b in pairs]),
        "token_f1": np.array([_token_f1(_normal(a).split(), _normal(b).split()) for a, b in pairs]),
        "rouge_l": np.array([scorer.score(b, a)["rougeL"].fmeasure for a, b in pairs]),
    }


def _normal(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _token_f1(output: list[str], reference: list[str]) -> float:
    if not output or not reference:
        return float(output == reference)
    common = sum((Counter(output) & Counter(reference)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(output), common / len(reference)
    return 2 * precision * recall / (precision + recall)
