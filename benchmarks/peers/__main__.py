"""Our starts beside those that PEFT, AdapterHub, LoraHub and mergekit make from the same modules.

TRANSFER_TASKS=DIR python -m benchmarks.peers               what is missing of peers.json; about six hours of two cores
python -m benchmarks.peers --report                         the tables of what is there
TRANSFER_TASKS=DIR python -m benchmarks.peers --smoke       every peer on one development target: some minutes

Runs of ours that have a row in benchmarks/strategies/results.jsonl are taken from there, learning rates included: then
about four hours.
Libraries that are not installed get environments in the cache folder, by pip, when they are first needed.
"""

from __future__ import annotations

from benchmarks.peers.names import library
from benchmarks.peers.report import CONFIG, HERE, show
from benchmarks.peers.starts import PEERS
from benchmarks.strategies.command import main
from benchmarks.strategies.experiment import Experiment

BESIDE = HERE.parent / "strategies" / "results.jsonl"
QUICK = ("scratch", "uniform")  # of ours


def smoke(experiment: Experiment) -> Experiment:
    """All peers and the quick ones of ours, on one development target, for few steps."""
    small = experiment.smoke()
    parts = [
        small.parts[0].model_copy(
            update={
                "methods": part.methods,
                "starts": [name for name in part.starts if name in QUICK or library(name) != "transfer"],
                "as_they_are": part.as_they_are,
            }
        )
        for part in experiment.parts
    ]
    return small.model_copy(update={"parts": parts})


if __name__ == "__main__":
    main(HERE, CONFIG, __doc__, more=PEERS, beside=BESIDE, smoke=smoke, show=show)
