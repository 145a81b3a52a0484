"""A call of `initialize` with auto: the best of a short list of starts, raced on the target's examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from transfer.ensembling.automatic import BUDGET, Maker, choose_start
from transfer.ensembling.choosing import choose_rule
from transfer.ensembling.merging import nonzero
from transfer.initialization import Initialization
from transfer.recipes import NO_WEIGHT, start_of_all
from transfer.relatives import Relatives
from transfer.similarity.target import Target
from zoo import Module
from zoo.tensors import digest

if TYPE_CHECKING:
    from transfer.job import Job


def raced(job: Job, target: Target, modules: Sequence[Module], relatives: Relatives) -> Initialization:
    """The best of a short list of starts, by tunes on the target's examples."""
    config = job.config
    by_id = {module.id: module for module in modules}
    remarks: dict[str, None] = {}  # of merging: the same for many candidates, said once

    def merged_of(weights: Mapping[str, float]) -> list[Module]:
        return [by_id[name] for name in by_id if abs(weights[name]) > NO_WEIGHT]

    def read_for(weights: Mapping[str, float]) -> list[Module]:
        return [by_id[name] for name in nonzero(weights)]  # what `merge` chooses its rule by

    def licences_of(weights: Mapping[str, float]) -> list[str]:
        return sorted({module.card.license for module in merged_of(weights)})

    maker = Maker(
        modules,
        job.backbone,
        config.method,
        temperature=config.temperature,
        top_k=config.top_k,
        merge=config.merge,
        seed=config.seed,
        batch_size=config.batch_size,
        budget=config.budget or BUDGET,
        force=config.force,
        note=lambda line: remarks.setdefault(line, None),
    )
    maker.know(target)
    found = choose_start(
        job.task,
        maker,
        budget=config.budget or BUDGET,
        licences=licences_of,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    job.clock.lap("auto")
    for line in [*remarks, *found.remarks()]:
        job.note(line)
    merged = merged_of(found.made.weights)
    rule, _ = choose_rule(found.made.merge, read_for(found.made.weights), {})
    delta = maker.scratch(job.task) if found.scratch else found.made.delta
    recipe = job.recipe(
        target, delta, modules, merged, found.made.scores, dict(found.made.weights), relatives, found.verdict
    )
    start, start_digest = start_of_all(merged, digest(target.start) if found.scratch else None)
    if not (found.scratch or rule.leaves_start):
        start = start_digest = None
    recipe |= {
        "auto": found.as_dict(),
        "guard": None,
        "handed_over": "scratch" if found.scratch else "merged",
        "how": found.made.how,
        "weighting": None if found.made.fit is None else found.made.fit.about,
        "merge": rule.name,
        "licences": [] if found.scratch else licences_of(found.made.weights),
        "start": start,
        "start_sha256": start_digest,
    }
    return Initialization(delta, recipe, found.verdict)
