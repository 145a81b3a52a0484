"""Soups: the average of modules that were tuned from several starts, or from one start in several data orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from transfer.backbones.encoding import Encoded
from transfer.keeping.averages import mean_of
from transfer.keeping.keep import Keep, Tensors, Trial
from transfer.keeping.work import Work


def ingredients(
    work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str, trial: Trial
) -> list[tuple[str, Tensors, float | None]]:
    """(name, tensors, calibrated dev loss) of each tuned start, at its best step; costs and history go into the trial.

    With further starts each of them is tuned once, in the same order of data; else the one start is tuned in
    `soup_size` orders of data.
    """
    begins = [("start", work.start, 0), *((other.name, other.tensors, 0) for other in work.others)]
    if not work.others:
        begins = [(f"order {number}", work.start, number) for number in range(work.keep.soup_size)]
    found = []
    for number, (name, tensors, seed) in enumerate(begins):
        path = work.path(train, dev, f"{part}-{number}", start=tensors, seed=seed)
        step = path.best_step
        found.append((name, path.tensors[step], path.losses.get(step)))
        trial.count(path.tuned, ingredient=number)
    trial.notes["ingredients"] = [{"name": name, "loss": loss} for name, _, loss in found]
    return found


class Soup(Keep):
    """The average of all tuned starts. Source: Wortsman et al. 2022, arxiv.org/abs/2203.05482 (uniform soup)."""

    name: ClassVar[str] = "soup"
    chooses: ClassVar[bool] = False
    folds: ClassVar[bool] = False
    starts: ClassVar[bool] = True

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        trial = Trial()
        soup = mean_of(tensors for _, tensors, _ in ingredients(work, train, dev, part, trial))
        trial.add("soup", soup, work.loss(soup, dev))
        return trial


class GreedySoup(Keep):
    """Tuned starts, the best first, each taken in if dev is no worse with it. Source: as `Soup` (greedy soup)."""

    name: ClassVar[str] = "greedy-soup"
    folds: ClassVar[bool] = False
    starts: ClassVar[bool] = True

    def trial(self, work: Work, train: Sequence[Encoded], dev: Sequence[Encoded] | None, part: str) -> Trial:
        trial = Trial()
        found = ingredients(work, train, dev, part, trial)
        ranked = sorted(range(len(found)), key=lambda place: (_known(found[place][2]), place))
        chosen, soup, lowest = ranked[:1], found[ranked[0]][1], _known(found[ranked[0]][2])
        for place in ranked[1:]:
            tried = mean_of(found[other][1] for other in [*chosen, place])
            loss = _known(work.loss(tried, dev))
            if loss <= lowest:
                chosen, soup, lowest = [*chosen, place], tried, loss
        trial.notes["taken"] = [found[place][0] for place in chosen]
        trial.add(f"soup of {len(chosen)}", soup, lowest)
        return trial


def _known(loss: float | None) -> float:
    """Greedy choices need dev: what was not measured, or is no number, comes last."""
    return float("inf") if loss is None or loss != loss else loss
