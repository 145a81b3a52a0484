"""What the commands say of tasks, initializations and results."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.cli.output import Output

if TYPE_CHECKING:
    from transfer.evaluation import Evaluation
    from transfer.finetuning import Finetuned
    from transfer.initialization import Initialization
    from transfer.tasks import Task

CLOSEST = 10  # source modules that are printed
LICENCES = 4  # licences that are printed
STEPS = ("step", "dev loss", "calibrated", "dev accuracy")


def show_task(output: Output, task: Task) -> None:
    """Where the target data came from, and how much of it there is."""
    sizes = task.sizes
    output.say(f"{task.name}: {sizes['train']} train, {sizes['dev']} dev, {sizes['test']} test examples")
    output.path(f"from {task.source}")
    for note in task.notes:
        output.say(f"note: {note}")


def show_initialization(
    output: Output, initialization: Initialization, folder: Path, target: str, page: Path | None = None
) -> None:
    """The closest sources, the verdict, where the result and its page are, and what to run next."""
    recipe = initialization.recipe
    output.json({"folder": str(folder), **recipe})
    rows = closest(recipe)
    found = "any weights" if recipe.get("weighting") else "weights sum to 1"
    output.say(f"{len(rows)} source modules scored by {recipe['estimator']}: a higher score is closer, {found}")
    if recipe.get("weighting"):
        output.say(f"weights by {recipe['how']}, on the target's examples, {recipe['weighting']['seconds']:.0f} s")
    output.table(("source module", "score", "weight"), rows[:CLOSEST], flexible="source module")
    if len(rows) > CLOSEST:
        rest = sum(weight for _, _, weight in rows[CLOSEST:])
        output.say(f"and {len(rows) - CLOSEST} more with a weight of {rest:.3f} together")
    if recipe["licences"]:
        output.say("licences of the merged sources, by weight:")
        for line in licences(recipe):
            output.path(f"  {line}")
    if recipe.get("auto"):
        show_race(output, recipe["auto"])
    if initialization.verdict is not None:
        # The line above names the licences already.
        output.say(f"verdict: {replace(initialization.verdict, licences=()).text}", style="bold")
    else:
        output.say("verdict: none, since --no-guard leaves out the comparison with tuning from scratch", style="bold")
    output.path(f"saved to {folder} in {sum(recipe['seconds'].values()):.0f} s")
    if page is not None:
        output.path(f"explained in {page}")
    output.say("next:")
    output.command(f"transfer finetune {target} --start {shlex.quote(str(folder))}")
    if output.quiet:
        output.result(str(folder))


def show_race(output: Output, auto: dict[str, Any]) -> None:
    """What was tried, and how it compares with scratch."""
    said = "four-fold" if auto["cross_validated"] else "dev"
    output.say(f"tried: {said} loss as it is, and at the best step of a tune of so many; against scratch, 90% interval")
    rows = [
        (
            f"{'* ' if row['chosen'] else ''}{row['candidate']}",
            row["loss_at_start"],
            row["loss_after"],
            row["steps"],
            row["difference"],
            "-" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}",
            f"{row['seconds']:.0f} s",
        )
        for row in auto["candidates"]
    ]
    output.table(
        ("candidate", "start", "tuned", "steps", "less scratch", "interval", "cost"), rows, flexible="candidate"
    )
    for row in auto["candidates"]:
        if row["why_not"]:
            output.say(f"{row['candidate']}: {row['why_not']}")


def closest(recipe: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(id, score, weight) of each source, the heaviest first."""
    weights, scores = recipe["weights"], recipe["scores"]
    order = sorted(scores, key=lambda name: (-abs(weights.get(name, 0.0)), -scores[name]))
    return [(name, scores[name], weights.get(name, 0.0)) for name in order]


def licences(recipe: dict[str, Any]) -> list[str]:
    """A line for each licence of what was merged, with the weight of its sources, the heaviest first.

    After four there is a line that says how many more the recipe has.

    >>> recipe = {
    ...     "modules": [{"id": "a", "license": "MIT"}, {"id": "b", "license": "CC0"}, {"id": "c", "license": "MIT"}],
    ...     "weights": {"a": 0.25, "b": 0.25, "c": 0.5},
    ... }
    >>> licences(recipe)
    ['0.75   MIT', '0.25   CC0']
    """
    weights: dict[str, float] = {}
    for module in recipe["modules"]:
        weights[module["license"]] = weights.get(module["license"], 0.0) + abs(recipe["weights"][module["id"]])
    order = sorted(weights, key=lambda name: (-weights[name], name))
    lines = [f"{_share(weights[name]):<5}  {name}" for name in order[:LICENCES]]
    more = len(order) - LICENCES
    return [*lines, f"and {more} more in recipe.json"] if more > 0 else lines


def _share(weight: float) -> str:
    return f"{weight:.2f}" if weight >= 0.01 else "<0.01"


def show_finetuned(
    output: Output, result: Finetuned, folder: Path, target: str, added: tuple[str, Path] | None = None
) -> None:
    """How training went on dev, what came out on test, and where it is; `added` is an id and the zoo it is in."""
    from transfer.cards import ingredients, taken_from

    tuned = result.tuned
    output.json(
        {
            "folder": str(folder),
            "module": result.module.id,
            "added": None if added is None else {"id": added[0], "zoo": str(added[1])},
            "start": result.start,
            "history": tuned.history,
            "best_step": tuned.best_step,
            "keep": result.kept,
            "steps": tuned.steps,
            "seconds": tuned.seconds,
            "before": None if result.before is None else result.before.to_json(),
            "after": result.after.to_json(),
            **sparsity_facts(result),
        }
    )
    names = [Path(name).name for name in ingredients(result.start, result.kept)]
    tags = [tag for tag in ("ingredient", "pull", "way") if any(tag in row for row in tuned.history)]  # tell runs apart
    if tuned.history:  # with folds there is none
        output.table(
            (*("tuned from" if tag == "ingredient" else tag for tag in tags), *STEPS),
            [
                (
                    *(names[int(row[tag])] if tag == "ingredient" and tag in row else row.get(tag) for tag in tags),
                    int(row["step"]),
                    *(row.get(name) for name in ("loss", "calibrated", "accuracy")),
                )
                for row in tuned.history
            ],
            flexible="tuned from",
        )
        chooses = "" if result.kept["name"] == "last" else "; it chooses the step"
        output.say(f"calibrated: dev loss after one factor on all scores{chooses}")
    for step in diverged(tuned.history):
        output.say(
            f"training diverged after step {step}: the dev loss is no number from there on; "
            "a smaller --learning-rate may do",
            style="bold",
        )
    chosen = f"step {tuned.best_step}" if result.kept["name"] in ("best", "last") else result.kept["chosen"]
    by = f" by {result.kept['folds']}-fold cross-validation" if result.kept["folds"] else ""
    output.say(f"kept {chosen} of {tuned.steps} steps{by}, {tuned.seconds:.0f} s")
    if result.before is not None:
        output.say(f"{result.before.split} at the start: {summary(result.before)}")
    begun = taken_from(result.start, result.kept)
    output.say(f"{result.after.split} after tuning from {begun}: {summary(result.after)}", style="bold")
    output.path(f"saved to {folder} as {result.module.id}")
    if added is not None:
        output.path(f"added to {added[1]} as {added[0]}")
    output.say("next:")
    output.command(f"transfer evaluate {target} --delta {shlex.quote(str(folder))}")
    if output.quiet:
        output.result(f"{result.after.metric}\t{result.after.metrics[result.after.metric]:.4f}\t{folder}")


def diverged(history: Sequence[Mapping[str, float]]) -> list[int]:
    """Of each run whose dev loss comes to be no number, the last step before that.

    >>> diverged([{"step": 0, "loss": 0.7}, {"step": 2, "loss": float("nan")}, {"step": 4, "loss": float("nan")}])
    [0]
    """
    return [
        int(before["step"])
        for before, row in pairwise(history)
        if before["step"] < row["step"] and math.isfinite(before["loss"]) and not math.isfinite(row["loss"])
    ]


def sparsity_facts(result: Finetuned) -> dict[str, Any]:
    """Ranks of a SoRA or of what was pruned from one, and the stages of its schedule; nothing for other methods."""
    from transfer.deltas.ranks import ranks_of

    if result.module.card.method != "sora" and "pruned_from" not in result.module.card.provenance:
        return {}
    stages = result.sparsified.stages if result.sparsified is not None else ()
    return {"sparsity": ranks_of(result.delta).to_json(), "stages": [stage.to_json() for stage in stages]}


def show_evaluation(output: Output, found: Evaluation, what: str) -> None:
    """All metrics of one split."""
    output.json({"delta": what, **found.to_json()})
    output.say(f"{what} on {found.split} of {found.task}: {summary(found)}")
    if output.quiet:
        output.result(f"{found.metric}\t{found.metrics[found.metric]:.4f}")


def summary(found: Evaluation) -> str:
    """Accuracy (or token F1) with its interval, then the other metrics."""
    low, high = found.interval
    name = "token F1" if "token_f1" in found.metrics else "accuracy"
    rest = {key: value for key, value in found.metrics.items() if key not in ("accuracy", "token_f1")}
    others = ", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in rest.items())
    return f"{name} {found.value:.3f} (95% interval {low:.3f} to {high:.3f}, n {found.n}); {others}"
