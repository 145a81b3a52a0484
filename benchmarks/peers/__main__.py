"""Side by side with other libraries: the same modules, targets and tuning.

TRANSFER_TASKS=DIR python -m benchmarks.peers            what is missing of peers.json
python -m benchmarks.peers --report                      the tables and pictures of what is there
TRANSFER_TASKS=DIR python -m benchmarks.peers --smoke    a few minutes: environments are made the first time

PEFT is that of the environment this runs in. AdapterHub's `adapters`, which pins an older transformers, and LoraHub get
environments of their own in the cache folder. mergekit merges whole models, and what it writes is no start for a delta:
its linear merge of exported models is the sum of products that `--merge concat` gives exactly.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.costs import HEAD, cost_rows
from benchmarks.peers.starts import PEERS
from benchmarks.strategies.command import main

if __name__ == "__main__":
    main(Path(__file__).parent, "peers.json", __doc__, PEERS, {HEAD: cost_rows})
