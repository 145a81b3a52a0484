"""The starts of other libraries, by name: LIBRARY:WAY, and :first-order where the weights are ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from transformers.utils import logging

from benchmarks.peers import by_adapterhub, by_lorahub, by_mergekit, by_peft
from benchmarks.peers.environments import PeerError
from benchmarks.strategies.problem import Made, Problem
from benchmarks.strategies.starts import Recipe
from transfer.errors import TransferError
from transfer.similarity.scoring import DEFAULT


def peer(make: Callable[..., Made], *words: Any, estimator: str | None = None, **options: Any) -> Recipe:
    """A recipe that says what went wrong in another library, so that the other runs go on."""

    def made(problem: Problem) -> Made:
        logging.disable_progress_bar()  # a bar for every model that is written
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of what other libraries will have to change
                return make(problem, *words, **options)
        except TransferError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise PeerError(f"{make.__module__.rpartition('.')[2]}: {type(error).__name__}: {reason}") from error

    return Recipe(made, estimator, own_rate=True)  # scaled in another way than ours


PEERS: dict[str, Recipe] = {
    "peft:linear": peer(by_peft.combined, "linear"),
    "peft:linear:mean": peer(by_peft.combined, "linear", each=by_peft.mean_of_both),
    "peft:linear:first-order": peer(by_peft.first_order, "linear", estimator=DEFAULT),
    "peft:svd": peer(by_peft.combined, "svd"),
    "peft:ties": peer(by_peft.combined, "ties", each=by_peft.whole, density=by_peft.DENSITY),
    "peft:dare_ties": peer(by_peft.combined, "dare_ties", each=by_peft.whole, density=by_peft.DENSITY),
    "peft:dare_ties:share": peer(by_peft.combined, "dare_ties", density=by_peft.DENSITY),
    "peft:cat": peer(by_peft.combined, "cat"),
    "adapterhub:average": peer(by_adapterhub.averaged),
    "adapterhub:svd": peer(by_adapterhub.averaged, "lora_delta_w_svd", svd_rank=8),
    "lorahub": peer(by_lorahub.composed),
    "mergekit:linear": peer(by_mergekit.merged, "linear"),
    "mergekit:ties": peer(by_mergekit.merged, "ties"),
    "mergekit:linear:whole": peer(by_mergekit.merged, "linear", whole=True),
    "mergekit:ties:whole": peer(by_mergekit.merged, "ties", whole=True),
}
